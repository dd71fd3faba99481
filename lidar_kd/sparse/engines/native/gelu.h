/* SPDX-License-Identifier: Apache-2.0
 *
 * Powers of two for vectors, and GELU with its gradient, a part of conv.c.
 */
#define LOG2_E 1.44269504088896341f
#define AT_A_TIME 4096 /* numbers a thread takes */

typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4)));

INLINE vec chosen(ivec first, vec a, vec b) { return (vec)((first & (ivec)a) | (~first & (ivec)b)); }
INLINE vec larger(vec a, vec b) { return chosen(a > b, a, b); }
INLINE vec all(float a) { return a - (vec){0}; }

/* 2^x for x <= 0 to 1e-7 of it; below -126 it stays 2^-126, and NaN stays NaN. */
INLINE vec power_of_two(vec x)
{
    const vec round = all(12582912.0f); /* 1.5 * 2^23: what is added to it becomes whole */
    x = chosen(x < -126.0f, all(-126.0f), x);
    const vec shifted = x + round, rest = x - (shifted - round);
    /* the series of e^(rest ln 2), |rest| <= 1/2 */
    vec sum = rest * 1.5403530e-4f + 1.3333558e-3f;
    sum = sum * rest + 9.6181291e-3f;
    sum = sum * rest + 5.5504109e-2f;
    sum = sum * rest + 2.4022651e-1f;
    sum = sum * rest + 6.9314718e-1f;
    sum = sum * rest + 1.0f;
    return sum * (vec)(((ivec)shifted - (ivec)round + 127) << 23);
}

/* x Phi(x), or with dy its gradient dy (Phi(x) + x phi(x)); Phi, the normal distribution, to 1e-7
 * (Abramowitz and Stegun 7.1.26). */
INLINE vec gelu_of(vec x, const vec *dy)
{
    const vec bell = power_of_two(x * x * (-0.5f * LOG2_E)), size = chosen(x < 0, -x, x);
    const vec t = 1.0f / (1.0f + 0.23164190f * size);
    vec sum = t * 1.061405429f - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    const vec beyond = 0.5f * sum * t * bell, below = chosen(x < 0, beyond, 1.0f - beyond);
    return dy ? *dy * (below + x * bell * 0.39894228f) : x * below;
}

static void gelu_few(const float *x, const float *dy, int64_t count, float *to)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const vec up = load((dy ? dy : x) + i);
        store(to + i, gelu_of(load(x + i), dy ? &up : NULL));
    }
    if (i == count) return;
    float last[LANES] = {0}, gradient[LANES] = {0};
    memcpy(last, x + i, (count - i) * sizeof(float));
    if (dy) memcpy(gradient, dy + i, (count - i) * sizeof(float));
    gelu_few(last, dy ? gradient : NULL, LANES, last);
    memcpy(to + i, last, (count - i) * sizeof(float));
}

static void gelu(const float *x, const float *dy, int64_t count, int threads, float *to)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i += AT_A_TIME)
        gelu_few(x + i, dy ? dy + i : NULL, lk_min(AT_A_TIME, count - i), to + i);
}

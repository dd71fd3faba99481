/* SPDX-License-Identifier: Apache-2.0
 *
 * GELU and its gradient in float32, compiled once per instruction set.
 */
#include "float32.h"
#include "powers.h"

#include <string.h>

#define AT_A_TIME 4096 /* numbers a thread takes */

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

void FOR_ISA(gelu)(const float *x, const float *dy, int64_t count, int threads, float *to)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i += AT_A_TIME)
        gelu_few(x + i, dy ? dy + i : NULL, lk_min(AT_A_TIME, count - i), to + i);
}

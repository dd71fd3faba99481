/* SPDX-License-Identifier: Apache-2.0
 *
 * From logits to what a robot asks for, in one pass over each row.
 */
#include "kernels.h"

#include <math.h>
#include <string.h>

/* exp(x) for x <= 0 within 2 units in the last place: 2^n times a polynomial on +-ln(2)/2. It has
 * no calls and no branches, so that the loop over classes becomes vector code on every CPU. */
static inline float exp_below(float x)
{
    const float low = -87.0f;
    x = x < low ? low : x;
    const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds to an integer */
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

/* ln(x) for x >= 1 within 2e-7: the exponent, and a polynomial on the mantissa in [0.71, 1.41]. */
static inline float log_above(float x)
{
    int32_t bits;
    memcpy(&bits, &x, 4);
    const int32_t exponent = (bits - 0x3f3504f3) >> 23;
    bits -= (int32_t)((uint32_t)exponent << 23);
    float f, p = 7.0376836292e-2f;
    memcpy(&f, &bits, 4);
    f -= 1.0f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    return f * f * f * p - 0.5f * f * f + f + 0.693147181f * (float)exponent;
}

#if defined(__x86_64__)
#define FOR_EVERY_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EVERY_CPU
#endif

#define LANES 16 /* rows at a time, each in its own lane */
#define MOST_CLASSES 256

typedef struct {
    int32_t label[LANES];
    float probability[LANES], entropy[LANES];
} lanes;

/* Up to LANES rows. A NaN among a row's logits makes its probability and entropy NaN. */
FOR_EVERY_CPU
void lk_answer_lanes(const float *logits, int rows, int64_t classes, float scale, lanes *out)
{
    float z[MOST_CLASSES][LANES], peak[LANES], total[LANES] = {0}, spread[LANES] = {0};
    int32_t best[LANES] = {0};
    if (rows < LANES) memset(z, 0, classes * sizeof(z[0]));
    for (int r = 0; r < rows; r++)
        for (int64_t c = 0; c < classes; c++) z[c][r] = logits[r * classes + c];
    memcpy(peak, z[0], sizeof(peak));
    for (int32_t c = 1; c < classes; c++)
#pragma omp simd
        for (int r = 0; r < LANES; r++) {
            best[r] = z[c][r] > peak[r] ? c : best[r];
            peak[r] = z[c][r] > peak[r] ? z[c][r] : peak[r];
        }
    for (int64_t c = 0; c < classes; c++)
#pragma omp simd
        for (int r = 0; r < LANES; r++) {
            const float above = z[c][r] - peak[r], weight = exp_below(above);
            total[r] += weight;
            spread[r] += weight * above;
        }
#pragma omp simd
    for (int r = 0; r < LANES; r++) {
        out->label[r] = best[r];
        out->probability[r] = 1 / total[r];
        out->entropy[r] = (log_above(total[r]) - spread[r] / total[r]) * scale;
    }
}

/* 1 to MOST_CLASSES classes. */
LK_EXPORT int lk_answers(const lk_row_answers *job)
{
    const int64_t rows = job->rows, classes = job->classes;
    if (classes < 1 || classes > MOST_CLASSES) return LK_OUT_OF_RANGE;
    const float scale = 1.0f / logf(classes > 1 ? (float)classes : 2.0f);
#pragma omp parallel for schedule(static) num_threads(job->threads)
    for (int64_t r = 0; r < rows; r += LANES) {
        const int count = (int)lk_min(LANES, rows - r);
        lanes a;
        lk_answer_lanes(job->logits + r * classes, count, classes, scale, &a);
        for (int i = 0; i < count; i++) job->label[r + i] = (uint8_t)a.label[i];
        memcpy(job->probability + r, a.probability, count * sizeof(float));
        memcpy(job->entropy + r, a.entropy, count * sizeof(float));
    }
    return LK_DONE;
}

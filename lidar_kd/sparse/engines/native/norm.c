/* SPDX-License-Identifier: Apache-2.0
 *
 * Batch normalisation in training with the addition and the ReLU that follow it, each in one pass
 * over memory. Sums are taken per block of rows and merged in order: the same bits for any number
 * of threads.
 */
#include "kernels.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 256 /* of a block */

#if defined(__x86_64__)
#define FOR_EVERY_CPU __attribute__((target_clones("avx512f", "avx2,fma", "default")))
#else
#define FOR_EVERY_CPU
#endif

/* Sum over a block's rows, then sum of squared distances from the block's own mean. */
FOR_EVERY_CPU
void lk_block_moments(const float *restrict x, int64_t rows, int64_t channels, float *restrict sum,
                      float *restrict square)
{
    memset(sum, 0, channels * sizeof(float));
    memset(square, 0, channels * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < channels; c++) sum[c] += x[r * channels + c];
    const float share = 1.0f / (float)rows;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < channels; c++) {
            const float distance = x[r * channels + c] - sum[c] * share;
            square[c] += distance * distance;
        }
}

/* Mean and biased variance of each channel of x. */
LK_EXPORT int lk_norm_moments(const lk_norm *n, float *mean, float *variance)
{
    const int64_t blocks = lk_ceil(n->rows, ROWS), channels = n->channels;
    float *parts = malloc((2 * blocks * channels + 1) * sizeof(float));
    if (!parts) return LK_NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(n->threads)
    for (int64_t b = 0; b < blocks; b++)
        lk_block_moments(n->x + b * ROWS * channels, lk_min(ROWS, n->rows - b * ROWS), channels,
                         parts + 2 * b * channels, parts + (2 * b + 1) * channels);
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, square = 0;
        for (int64_t b = 0; b < blocks; b++) sum += parts[2 * b * channels + c];
        for (int64_t b = 0; b < blocks; b++) {
            const double size = (double)lk_min(ROWS, n->rows - b * ROWS);
            const double distance = parts[2 * b * channels + c] / size - sum / (double)n->rows;
            square += parts[(2 * b + 1) * channels + c] + size * distance * distance;
        }
        mean[c] = (float)(sum / (double)n->rows);
        variance[c] = (float)(square / (double)n->rows);
    }
    free(parts);
    return LK_DONE;
}

static inline float scale_of(const lk_norm *n, int64_t c) { return n->weight[c] * n->inverse[c]; }

static inline float shift_of(const lk_norm *n, int64_t c)
{
    return n->bias[c] - n->mean[c] * scale_of(n, c);
}

FOR_EVERY_CPU
void lk_block_apply(const lk_norm *n, int64_t row0, int64_t rows, const float *restrict scale,
                    const float *restrict shift)
{
    for (int64_t r = row0; r < row0 + rows; r++) {
        const int64_t at = r * n->channels;
        const float *restrict x = n->x + at, *restrict extra = n->residual ? n->residual + at : NULL;
        float *restrict out = n->out + at;
        for (int64_t c = 0; c < n->channels; c++) out[c] = x[c] * scale[c] + shift[c];
        if (extra)
            for (int64_t c = 0; c < n->channels; c++) out[c] += extra[c];
        if (n->relu)
            for (int64_t c = 0; c < n->channels; c++) out[c] = out[c] < 0 ? 0 : out[c];
    }
}

LK_EXPORT int lk_norm_apply(const lk_norm *n)
{
    float *scale = malloc((2 * n->channels + 1) * sizeof(float)), *shift = scale + n->channels;
    if (!scale) return LK_NO_MEMORY;
    for (int64_t c = 0; c < n->channels; c++) {
        scale[c] = scale_of(n, c);
        shift[c] = shift_of(n, c);
    }
#pragma omp parallel for schedule(static) num_threads(n->threads)
    for (int64_t b = 0; b < lk_ceil(n->rows, ROWS); b++)
        lk_block_apply(n, b * ROWS, lk_min(ROWS, n->rows - b * ROWS), scale, shift);
    free(scale);
    return LK_DONE;
}

/* --- backward: g = dy where the ReLU let through; dx = scale (g - mean g - x' mean(g x')) --- */

/* One row of g; without a stored result the sign is worked out as in lk_block_apply. */
static inline void passed(const lk_norm *n, int64_t at, const float *restrict scale,
                          const float *restrict shift, float *restrict g)
{
    const float *restrict dy = n->dy + at, *restrict x = n->x + at;
    const float *restrict y = n->y ? n->y + at : NULL;
    if (!n->relu) memcpy(g, dy, n->channels * sizeof(float));
    else if (y)
        for (int64_t c = 0; c < n->channels; c++) g[c] = y[c] > 0 ? dy[c] : 0;
    else
        for (int64_t c = 0; c < n->channels; c++) g[c] = x[c] * scale[c] + shift[c] > 0 ? dy[c] : 0;
}

FOR_EVERY_CPU
void lk_block_sums(const lk_norm *n, int64_t row0, int64_t rows, const float *restrict scale,
                   float *restrict g, float *restrict sum)
{
    const float *restrict shift = scale + n->channels;
    float *restrict product = sum + n->channels;
    memset(sum, 0, n->channels * sizeof(float));
    memset(product, 0, n->channels * sizeof(float));
    for (int64_t r = row0; r < row0 + rows; r++) {
        const float *restrict x = n->x + r * n->channels;
        passed(n, r * n->channels, scale, shift, g);
        for (int64_t c = 0; c < n->channels; c++) {
            sum[c] += g[c];
            product[c] += g[c] * (x[c] - n->mean[c]) * n->inverse[c];
        }
    }
}

FOR_EVERY_CPU
void lk_block_dx(const lk_norm *n, int64_t row0, int64_t rows, const float *restrict scale,
                 float *restrict g, const float *restrict sum)
{
    const float *restrict shift = scale + n->channels, *restrict product = sum + n->channels;
    for (int64_t r = row0; r < row0 + rows; r++) {
        const int64_t at = r * n->channels;
        const float *restrict x = n->x + at;
        float *restrict dx = n->dx + at;
        passed(n, at, scale, shift, g);
        if (n->dresidual) memcpy(n->dresidual + at, g, n->channels * sizeof(float));
        for (int64_t c = 0; c < n->channels; c++)
            dx[c] = scale[c] *
                    (g[c] - sum[c] - (x[c] - n->mean[c]) * n->inverse[c] * product[c]);
    }
}

/* dbias and dweight of all blocks, and their means in `mean`. */
static void merge_sums(const lk_norm *n, const float *parts, float *mean)
{
    const int64_t blocks = lk_ceil(n->rows, ROWS), channels = n->channels;
    for (int64_t c = 0; c < channels; c++) {
        double sums[2] = {0, 0};
        for (int64_t b = 0; b < 2 * blocks; b++) sums[b % 2] += parts[b * channels + c];
        n->dbias[c] = (float)sums[0];
        n->dweight[c] = (float)sums[1];
        mean[c] = (float)(sums[0] / (double)n->rows);
        mean[channels + c] = (float)(sums[1] / (double)n->rows);
    }
}

/* dbias and dweight are the sums of g and of g x'; dx may not overlap its inputs. In `work`: scale
 * and shift, the two means, a row of g for each thread, and every block's two sums. */
LK_EXPORT int lk_norm_backward(const lk_norm *n)
{
    const int64_t blocks = lk_ceil(n->rows, ROWS), channels = n->channels;
    float *work = malloc(((2 * blocks + 4 + n->threads) * channels + 1) * sizeof(float));
    if (!work) return LK_NO_MEMORY;
    float *scale = work, *mean = work + 2 * channels, *rows = mean + 2 * channels;
    float *parts = rows + n->threads * channels;
    for (int64_t c = 0; c < channels; c++) {
        scale[c] = scale_of(n, c);
        scale[channels + c] = shift_of(n, c);
    }
#pragma omp parallel num_threads(n->threads)
    {
        float *g = rows + omp_get_thread_num() * channels;
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            lk_block_sums(n, b * ROWS, lk_min(ROWS, n->rows - b * ROWS), scale, g,
                          parts + 2 * b * channels);
#pragma omp single
        merge_sums(n, parts, mean);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            lk_block_dx(n, b * ROWS, lk_min(ROWS, n->rows - b * ROWS), scale, g, mean);
    }
    free(work);
    return LK_DONE;
}

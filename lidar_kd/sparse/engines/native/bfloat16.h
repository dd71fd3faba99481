/* SPDX-License-Identifier: Apache-2.0
 *
 * bfloat16 on CPUs with AVX-512: between the types, and the last step of a convolution.
 */
#ifndef LIDAR_KD_BFLOAT16_H
#define LIDAR_KD_BFLOAT16_H

#include "kernels.h"

#include <immintrin.h>

typedef uint16_t bf16;

static inline __m512 widened(__m256i half)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* to the nearest, ties to even */
static inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* y = relu?(tile + bias? + residual?) for some columns, sixteen at a time; the tile is read in
 * whole sixteens. `parts` is 1 where features are bfloat16, else they are float32. */
static inline __attribute__((always_inline)) void finish_parts(const int parts, const lk_conv *job,
                                                               const lk_tile t)
{
    for (int64_t r = 0; r < t.rows; r++)
        for (int64_t c = 0; c < t.columns; c += 16) {
            const __mmask16 some = (__mmask16)((1U << lk_min(16, t.columns - c)) - 1);
            const int64_t to = (t.row0 + r) * job->ldy + t.column + c;
            const int64_t from = (t.row0 + r) * job->ldr + t.column + c;
            __m512 sum = _mm512_loadu_ps(t.sums + r * t.ld + c);
            if (job->bias)
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some, job->bias + t.column + c));
            if (job->residual && parts == 1)
                sum = _mm512_add_ps(
                    sum, widened(_mm256_maskz_loadu_epi16(some, (const bf16 *)job->residual + from)));
            if (job->residual && parts != 1)
                sum = _mm512_add_ps(
                    sum, _mm512_maskz_loadu_ps(some, (const float *)job->residual + from));
            /* keeps a NaN: max returns its second operand when either is one */
            if (job->relu) sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
            if (parts == 1) _mm256_mask_storeu_epi16((bf16 *)job->y + to, some, narrow(sum));
            else _mm512_mask_storeu_ps((float *)job->y + to, some, sum);
        }
}

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * What features and weights are made of, the multiply of it, and the last step. PAIR channels lie side by side in
 * the lanes of packed weights: one multiply-add takes them all.
 */
#ifndef LIDAR_KD_ELEMENT_H
#define LIDAR_KD_ELEMENT_H

#include "kernels.h"
#include "vectors.h"

#if defined(__AVX512BF16__)
#include "bfloat16.h"

#include <string.h>

#define PAIR 2
typedef bf16 element;

INLINE vec multiply_add(vec sum, vec a, vec w)
{
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)w);
}
INLINE vec spread_bits(uint32_t bits)
{
    __m512i v = _mm512_set1_epi32((int)bits);
    __asm__("" : IN_REGISTER(v));
    return (vec)v;
}
INLINE vec spread_at(const element *p)
{
    uint32_t both;
    memcpy(&both, p, sizeof(both));
    return spread_bits(both);
}
/* The last of an odd number of channels: what follows is another row's, perhaps a NaN. */
INLINE vec spread_last(const element *p) { return spread_bits(*p); }
static inline element narrowed(float x)
{
    return (element)_mm256_extract_epi16(narrow(_mm512_set1_ps(x)), 0);
}
INLINE void finish(const lk_conv *job, const lk_tile t) { finish_parts(1, job, t); }
#else
#include "finish.h"

#define PAIR 1
typedef float element;

INLINE vec multiply_add(vec sum, vec a, vec w) { return sum + a * w; }
INLINE vec spread_at(const element *p) { return spread(*p); }
INLINE vec spread_last(const element *p) { return spread(*p); }
static inline element narrowed(float x) { return x; }
#endif

#endif

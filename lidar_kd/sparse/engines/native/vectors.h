/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors of float32 for the instruction set a file is compiled for, and how large a block of
 * sums its registers hold: MAX_VECTORS across, ROWS_OF(vectors) down.
 */
#ifndef LIDAR_KD_VECTORS_H
#define LIDAR_KD_VECTORS_H

#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16
#define MAX_VECTORS 4
#define ROWS_OF(vectors) ((vectors) == 4 ? 6 : 8)
#elif defined(__AVX2__)
#define LANES 8
#define MAX_VECTORS 3
#define ROWS_OF(vectors) ((vectors) == 3 ? 4 : (vectors) == 2 ? 6 : 8)
#elif defined(__aarch64__)
#define LANES 4
#define MAX_VECTORS 4
#define ROWS_OF(vectors) 6
#else
#define LANES 4
#define MAX_VECTORS 2
#define ROWS_OF(vectors) 4
#endif

#if defined(__aarch64__)
#define IN_REGISTER(v) "+w"(v)
#elif defined(__AVX512F__)
#define IN_REGISTER(v) "+v"(v)
#elif defined(__x86_64__)
#define IN_REGISTER(v) "+x"(v)
#else
#define IN_REGISTER(v) "+m"(v)
#endif

#define MAX_ROWS 8
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t mask __attribute__((vector_size(LANES * 4)));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
/* max(x, 0) that keeps a NaN */
INLINE vec not_negative(vec x) { return (vec)((mask)x & ~(mask)(x < (vec){0})); }
/* One number in every lane, pinned to a register: left alone, GCC reads it again per multiply. */
INLINE vec spread(float a)
{
    vec v = a - (vec){0};
    __asm__("" : IN_REGISTER(v));
    return v;
}

#endif

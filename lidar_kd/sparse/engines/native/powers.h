/* SPDX-License-Identifier: Apache-2.0
 *
 * Choices between vectors, and powers of two; inlined for the instruction set of each file.
 */
#ifndef LIDAR_KD_POWERS_H
#define LIDAR_KD_POWERS_H

#include "vectors.h"

#define LOG2_E 1.44269504088896341f

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

#endif

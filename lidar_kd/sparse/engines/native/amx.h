/* SPDX-License-Identifier: Apache-2.0
 *
 * What the AMX engines' convolution (amx.c) and packing (amx_pack.c) share.
 */
#ifndef LIDAR_KD_AMX_H
#define LIDAR_KD_AMX_H

#include "bfloat16.h"
#include "kernels.h"

#define SIDE 16  /* rows and columns of a matrix tile of float32 */
#define DEPTH 32 /* bfloat16 values in a row of a matrix tile */
#define MOST 4   /* sums held in matrix tiles at a time */

/* high and low parts of sixteen numbers */
static inline void split(__m512 x, __m256i *high, __m256i *low)
{
    *high = narrow(x);
    *low = narrow(_mm512_sub_ps(x, widened(*high)));
}

/* The panels of a result `wide` matrix tiles across are nearly equal and at most MOST wide. */
static inline int64_t panel_width(int64_t wide, int64_t p)
{
    const int64_t count = lk_ceil(wide, MOST);
    return wide / count + (p < wide % count);
}

static inline int64_t whole(int64_t a, int64_t unit) { return lk_ceil(a, unit) * unit; }

/* amx_pack.c: for bfloat16, and for float32 in two parts */
int64_t lk_amx_packed(int64_t slots, int64_t cin, int64_t cout);
int64_t lk_split_packed(int64_t slots, int64_t cin, int64_t cout);
void lk_amx_pack(const lk_packing *job);
void lk_split_pack(const lk_packing *job);

#endif

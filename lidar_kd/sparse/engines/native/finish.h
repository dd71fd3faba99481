/* SPDX-License-Identifier: Apache-2.0
 *
 * The last step of a convolution in float32; bfloat16.h has the other. One pass, for in narrow
 * layers a pass over the tile takes a tenth of the time of the products. A template: inlined into
 * conv.c for the instruction set that it is compiled for.
 */
#ifndef LIDAR_KD_FINISH_H
#define LIDAR_KD_FINISH_H

#include "kernels.h"
#include "vectors.h"

/* y = relu?(tile + bias? + residual?) for `vectors` whole vectors of each row. */
INLINE void finish_vectors(const int vectors, const int adds, const int relu, const lk_conv *job,
                           const lk_tile t)
{
    vec bias[MAX_VECTORS];
    for (int v = 0; v < vectors; v++)
        bias[v] = job->bias ? load(job->bias + t.column + v * LANES) : (vec){0};
    for (int64_t r = 0; r < t.rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const int64_t c = t.column + v * LANES;
            vec sum = load(t.sums + r * t.ld + v * LANES) + bias[v];
            if (adds) sum += load((const float *)job->residual + (t.row0 + r) * job->ldr + c);
            store((float *)job->y + (t.row0 + r) * job->ldy + c, relu ? not_negative(sum) : sum);
        }
}

INLINE void finish_panel(const int vectors, const lk_conv *job, const lk_tile t)
{
    if (job->residual && job->relu) finish_vectors(vectors, 1, 1, job, t);
    else if (job->residual) finish_vectors(vectors, 1, 0, job, t);
    else if (job->relu) finish_vectors(vectors, 0, 1, job, t);
    else finish_vectors(vectors, 0, 0, job, t);
}

/* The same for column `c` of the tile, which is left of a vector. */
static inline void finish_column(const lk_conv *job, const lk_tile t, int64_t c)
{
    const int64_t column = t.column + c;
    const float bias = job->bias ? job->bias[column] : 0, *residual = job->residual;
    for (int64_t r = 0; r < t.rows; r++) {
        float sum = t.sums[r * t.ld + c] + bias;
        if (residual) sum += residual[(t.row0 + r) * job->ldr + column];
        ((float *)job->y)[(t.row0 + r) * job->ldy + column] = job->relu && sum < 0 ? 0 : sum;
    }
}

/* For the columns of one panel. */
static inline void finish(const lk_conv *job, const lk_tile t)
{
    switch (t.columns / LANES) {
    case 1: finish_panel(1, job, t); break;
    case 2: finish_panel(2, job, t); break;
#if MAX_VECTORS > 2
    case 3: finish_panel(3, job, t); break;
#endif
#if MAX_VECTORS > 3
    case 4: finish_panel(4, job, t); break;
#endif
    }
    for (int64_t c = t.columns / LANES * LANES; c < t.columns; c++) finish_column(job, t, c);
}

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of dense matrices in float32: c = a b, or c += a b with `add`, where b (depth, columns)
 * and c (rows, columns) are padded to whole vectors. A template: every file that includes it gets
 * functions of its own for the instruction set it is compiled for, inlined where they are called.
 */
#ifndef LIDAR_KD_PRODUCT_H
#define LIDAR_KD_PRODUCT_H

#include "kernels.h"
#include "panels.h"
#include "vectors.h"

typedef struct {
    const float *a, *b;
    float *c;
    int64_t down, right, ldb, ldc; /* steps in a; rows of b and c are so far apart */
    int64_t depth;
    int add;
} factors;

/* `rows` rows of `vectors` vectors; a at (r, d) is a[r * down + d * right]. The sum starts at 0 and
 * is added to c at the end: sums of sums keep float32 accurate. */
INLINE void product_block(const int rows, const int vectors, const factors f)
{
    float *c = f.c;
    const float *a = f.a, *b = f.b;
    vec sum[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) __builtin_prefetch(c + r * f.ldc + v * LANES, 1);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = (vec){0};
    }
#pragma GCC unroll 2
    for (int64_t d = 0; d < f.depth; d++) {
        vec w[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) w[v] = load(b + d * f.ldb + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vec one = spread(a[r * f.down + d * f.right]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[r][v] += one * w[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            float *to = c + r * f.ldc + v * LANES;
            store(to, f.add ? load(to) + sum[r][v] : sum[r][v]);
        }
}

INLINE void product_panel(const int vectors, int64_t rows, factors f)
{
    const int step = ROWS_OF(vectors);
    for (; rows > 0; rows -= step, f.a += step * f.down, f.c += step * f.ldc) {
        switch (lk_min(step, rows)) {
        case 8: product_block(8, vectors, f); break;
        case 7: product_block(7, vectors, f); break;
        case 6: product_block(6, vectors, f); break;
        case 5: product_block(5, vectors, f); break;
        case 4: product_block(4, vectors, f); break;
        case 3: product_block(3, vectors, f); break;
        case 2: product_block(2, vectors, f); break;
        case 1: product_block(1, vectors, f); break;
        }
    }
}

INLINE void product_of(int64_t rows, int64_t columns, const factors f)
{
    const int64_t count = panels_of(columns);
    for (int64_t i = 0; i < count; i++) {
        const panel at = panel_at(columns, i);
        factors part = f;
        part.b += at.first * LANES;
        part.c += at.first * LANES;
        switch (at.vectors) {
        case 1: product_panel(1, rows, part); break;
        case 2: product_panel(2, rows, part); break;
#if MAX_VECTORS > 2
        case 3: product_panel(3, rows, part); break;
#endif
#if MAX_VECTORS > 3
        case 4: product_panel(4, rows, part); break;
#endif
        }
    }
}

/* Matrices and how far apart their rows are. */
typedef struct {
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
} matrices;

/* a is (rows, depth) */
static inline void product(int64_t rows, int64_t columns, int64_t depth, int add, const matrices *m)
{
    product_of(rows, columns,
               (factors){m->a, m->b, m->c, m->lda, 1, m->ldb, m->ldc, depth, add});
}

/* a is (depth, rows): its transpose counts */
static inline void product_turned(int64_t rows, int64_t columns, int64_t depth, int add,
                                  const matrices *m)
{
    product_of(rows, columns,
               (factors){m->a, m->b, m->c, 1, m->lda, m->ldb, m->ldc, depth, add});
}

#endif

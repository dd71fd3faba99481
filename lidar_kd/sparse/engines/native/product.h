/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of dense matrices in float32, a part of conv.c: c = a b, or c += a b with `add`, where
 * b (depth, columns) and c (rows, columns) are padded to whole vectors.
 */

/* `rows` rows of `vectors` vectors; a at (r, d) is a[r * down + d * right]. The sum starts at 0 and
 * is added to c at the end: sums of sums keep float32 accurate. */
INLINE void product_block(const int rows, const int vectors, const float *a, int64_t down,
                          int64_t right, const float *b, int64_t ldb, int64_t depth, int add,
                          float *c, int64_t ldc)
{
    vec sum[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) __builtin_prefetch(c + r * ldc + v * LANES, 1);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = (vec){0};
    }
#pragma GCC unroll 2
    for (int64_t d = 0; d < depth; d++) {
        vec w[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) w[v] = load(b + d * ldb + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vec one = spread(a[r * down + d * right]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[r][v] += one * w[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            float *to = c + r * ldc + v * LANES;
            store(to, add ? load(to) + sum[r][v] : sum[r][v]);
        }
}

INLINE void product_panel(const int vectors, int64_t rows, const float *a, int64_t down,
                          int64_t right, const float *b, int64_t ldb, int64_t depth, int add,
                          float *c, int64_t ldc)
{
    const int step = ROWS_OF(vectors);
    for (; rows > 0; rows -= step, a += step * down, c += step * ldc) {
        switch (lk_min(step, rows)) {
        case 8: product_block(8, vectors, a, down, right, b, ldb, depth, add, c, ldc); break;
        case 7: product_block(7, vectors, a, down, right, b, ldb, depth, add, c, ldc); break;
        case 6: product_block(6, vectors, a, down, right, b, ldb, depth, add, c, ldc); break;
        case 5: product_block(5, vectors, a, down, right, b, ldb, depth, add, c, ldc); break;
        case 4: product_block(4, vectors, a, down, right, b, ldb, depth, add, c, ldc); break;
        case 3: product_block(3, vectors, a, down, right, b, ldb, depth, add, c, ldc); break;
        case 2: product_block(2, vectors, a, down, right, b, ldb, depth, add, c, ldc); break;
        case 1: product_block(1, vectors, a, down, right, b, ldb, depth, add, c, ldc); break;
        }
    }
}

INLINE void product_of(int64_t rows, int64_t columns, const float *a, int64_t down, int64_t right,
                       const float *b, int64_t ldb, int64_t depth, int add, float *c, int64_t ldc)
{
    const int64_t count = panels_of(columns, NULL);
    panel panels[count];
    panels_of(columns, panels);
    for (int64_t i = 0; i < count; i++) {
        const float *bs = b + panels[i].first * LANES;
        float *cs = c + panels[i].first * LANES;
        switch (panels[i].vectors) {
        case 1: product_panel(1, rows, a, down, right, bs, ldb, depth, add, cs, ldc); break;
        case 2: product_panel(2, rows, a, down, right, bs, ldb, depth, add, cs, ldc); break;
#if MAX_VECTORS > 2
        case 3: product_panel(3, rows, a, down, right, bs, ldb, depth, add, cs, ldc); break;
#endif
#if MAX_VECTORS > 3
        case 4: product_panel(4, rows, a, down, right, bs, ldb, depth, add, cs, ldc); break;
#endif
        }
    }
}

/* a is (rows, depth) */
static void product(int64_t rows, int64_t columns, const float *a, int64_t lda, const float *b,
                    int64_t ldb, int64_t depth, int add, float *c, int64_t ldc)
{
    product_of(rows, columns, a, lda, 1, b, ldb, depth, add, c, ldc);
}

/* a is (depth, rows): its transpose counts */
static void product_turned(int64_t rows, int64_t columns, const float *a, int64_t lda,
                           const float *b, int64_t ldb, int64_t depth, int add, float *c,
                           int64_t ldc)
{
    product_of(rows, columns, a, 1, lda, b, ldb, depth, add, c, ldc);
}

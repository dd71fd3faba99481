/* SPDX-License-Identifier: Apache-2.0
 *
 * Sparse convolution, its gradient, attention and GELU (the headers included below), compiled once
 * per instruction set: in float32 (-DISA=avx512, avx2, portable), and the convolution alone with
 * bfloat16 features and weights for inference (-DISA=avx512bf16), sums in float32.
 * For each tile of result rows and each kernel slot, the pairs of the tile are taken a few rows
 * at a time: the rows' partial sums live in registers while the input channels go by, so nothing
 * is gathered into a buffer. Every result row sums its slots in order, whatever the threads.
 */
#include "kernels.h"
#include "vectors.h"
#include "element.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH (128 * PAIR) /* input channels per pass: their weights stay in the first cache */

typedef vec (*reader)(const element *);

/* sum[r] += in[r][c] * weight for the channels of one multiply, which `read` takes from each row. */
INLINE void add_channels(const int rows, const int vectors, const element *const *in, int64_t c,
                         const element *weight, reader read, vec (*sum)[MAX_VECTORS])
{
    vec w[MAX_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) w[v] = load((const float *)(weight + v * LANES * PAIR));
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        vec a = read(in[r] + c);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = multiply_add(sum[r][v], a, w[v]);
    }
}

/* out[r] += sum_c in[r][c] * weight[c], for `rows` rows of `vectors` vectors each. */
INLINE void multiply(const int rows, const int vectors, const element *const *in,
                     const element *weight, int64_t depth, float *const *out)
{
    vec sum[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = load(out[r] + v * LANES);
    const int64_t even = depth / PAIR * PAIR;
#pragma GCC unroll 2
    for (int64_t c = 0; c < even; c += PAIR)
        add_channels(rows, vectors, in, c, weight + c * vectors * LANES, spread_at, sum);
    if (even < depth)
        add_channels(rows, vectors, in, even, weight + even * vectors * LANES, spread_last, sum);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(out[r] + v * LANES, sum[r][v]);
}

/* `rows` pairs of one slot from pair p on, for one panel of `vectors` vectors. */
INLINE void pairs_of(const int rows, const int vectors, const lk_conv *job, const int32_t *in,
                     const int32_t *out, int64_t p, int64_t row0, int64_t c0, int64_t depth,
                     const element *weight, float *tile)
{
    const element *from[MAX_ROWS];
    float *to[MAX_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const int64_t i = in ? in[p + r] : row0 + p + r, o = in ? out[p + r] - row0 : p + r;
        from[r] = (const element *)job->x + c0 + i * job->ldx;
        to[r] = tile + o * (vectors * LANES);
    }
    multiply(rows, vectors, from, weight, depth, to);
}

/* The pairs [first, last) of one slot. */
INLINE void slot_of(const int vectors, const lk_conv *job, const int32_t *in, const int32_t *out,
                    int64_t first, int64_t last, int64_t row0, int64_t c0, int64_t depth,
                    const element *weight, float *tile)
{
    const int step = ROWS_OF(vectors);
    int64_t p = first;
    for (; p + step <= last; p += step) {
        if (in && p + 2 * step <= last)
#pragma GCC unroll 8
            for (int r = 0; r < step; r++)
                for (int64_t c = 0; c < depth; c += 64 / (int64_t)sizeof(element))
                    __builtin_prefetch((const element *)job->x + c0 + in[p + step + r] * job->ldx + c);
        pairs_of(step, vectors, job, in, out, p, row0, c0, depth, weight, tile);
    }
    switch (last - p) {
    case 7: pairs_of(7, vectors, job, in, out, p, row0, c0, depth, weight, tile); break;
    case 6: pairs_of(6, vectors, job, in, out, p, row0, c0, depth, weight, tile); break;
    case 5: pairs_of(5, vectors, job, in, out, p, row0, c0, depth, weight, tile); break;
    case 4: pairs_of(4, vectors, job, in, out, p, row0, c0, depth, weight, tile); break;
    case 3: pairs_of(3, vectors, job, in, out, p, row0, c0, depth, weight, tile); break;
    case 2: pairs_of(2, vectors, job, in, out, p, row0, c0, depth, weight, tile); break;
    case 1: pairs_of(1, vectors, job, in, out, p, row0, c0, depth, weight, tile); break;
    }
}

#if PAIR == 1
#include "finish.h"
#endif

typedef struct {
    int64_t vectors, first; /* width of the panel and its first vector */
} panel;

/* The columns split into panels of nearly equal width. */
static int64_t panels_of(int64_t cout, panel *out)
{
    int64_t vectors = lk_ceil(cout, LANES), count = lk_ceil(vectors, MAX_VECTORS), first = 0;
    for (int64_t p = 0; p < count; p++) {
        int64_t width = vectors / count + (p < vectors % count);
        if (out) out[p] = (panel){width, first};
        first += width;
    }
    return count;
}

static int64_t paired(int64_t channels) { return lk_ceil(channels, PAIR) * PAIR; }

/* Packed weights: panel after panel, each (slots, rows / PAIR, width * LANES, PAIR), zeros beyond
 * the end. */
static int64_t packed(int64_t slots, int64_t cin, int64_t cout)
{
    return slots * paired(cin) * lk_ceil(cout, LANES) * LANES;
}

static void tile_of(const lk_map *map, const lk_conv *job, panel at, const element *weight,
                    int64_t block0, int64_t block1, float *tile)
{
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), ld = at.vectors * LANES;
    const int64_t row0 = block0 * LK_BLOCK, rows = lk_min(map->rows, block1 * LK_BLOCK) - row0;
    memset(tile, 0, rows * ld * sizeof(float));
    for (int64_t k = 0; k < map->slots; k++) {
        const int32_t *cuts = map->cuts + k * (blocks + 1);
        const int32_t *in = map->in ? map->in + map->starts[k] : NULL;
        const int32_t *out = map->in ? map->out + map->starts[k] : NULL;
        int64_t first = map->in ? cuts[block0] : 0, last = map->in ? cuts[block1] : rows;
        for (int64_t c0 = 0; c0 < job->cin; c0 += DEPTH) {
            int64_t depth = lk_min(DEPTH, job->cin - c0);
            const element *w = weight + (k * paired(job->cin) + c0) * ld;
            switch (at.vectors) {
            case 1: slot_of(1, job, in, out, first, last, row0, c0, depth, w, tile); break;
            case 2: slot_of(2, job, in, out, first, last, row0, c0, depth, w, tile); break;
#if MAX_VECTORS > 2
            case 3: slot_of(3, job, in, out, first, last, row0, c0, depth, w, tile); break;
#endif
#if MAX_VECTORS > 3
            case 4: slot_of(4, job, in, out, first, last, row0, c0, depth, w, tile); break;
#endif
            }
        }
    }
    int64_t column = at.first * LANES;
    finish(job, tile, ld, row0, rows, column, lk_min(ld, job->cout - column));
}

static void conv(const lk_map *map, const lk_conv *job)
{
    const int64_t count = panels_of(job->cout, NULL), blocks = lk_ceil(map->rows, LK_BLOCK);
    const int64_t volume = map->slots * paired(job->cin);
    const int64_t bytes = volume * job->cout * (int64_t)sizeof(element);
    const int64_t wide = lk_tile_blocks(blocks, bytes, job->threads);
    const int64_t tiles = lk_ceil(blocks, wide);
    panel panels[count];
    panels_of(job->cout, panels);
#pragma omp parallel num_threads(job->threads)
    {
        float *tile = lk_scratch(wide * LK_BLOCK * MAX_VECTORS * LANES * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tiles * count; task++) {
            /* tile by tile while the weights stay in the cache, else panel by panel */
            int64_t t = bytes > (1 << 20) ? task % tiles : task / count;
            panel at = panels[bytes > (1 << 20) ? task / tiles : task % count];
            const element *weight = (const element *)job->weight + volume * at.first * LANES;
            tile_of(map, job, at, weight, t * wide, lk_min(blocks, (t + 1) * wide), tile);
        }
    }
}

/* weight is (cout, slots, cin), as torch holds it; the packed rows are cin, or cout for the
 * gradient of the input, where the roles of the two channel counts swap. */
static void pack(const float *weight, int64_t slots, int64_t cin, int64_t cout, int transpose,
                 int threads, void *to)
{
    const int64_t rows = transpose ? cout : cin, columns = transpose ? cin : cout;
    const int64_t row_step = transpose ? slots * cin : 1, column_step = transpose ? 1 : slots * cin;
    const int64_t count = panels_of(columns, NULL);
    panel panels[count];
    panels_of(columns, panels);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t task = 0; task < count * slots; task++) {
        panel at = panels[task / slots];
        const int64_t k = task % slots, ld = at.vectors * LANES, column0 = at.first * LANES;
        const int64_t width = lk_min(ld, columns - column0);
        const float *from = weight + k * cin + column0 * column_step;
        element *at_slot = (element *)to + slots * paired(rows) * column0 + k * paired(rows) * ld;
        for (int64_t r0 = 0; r0 < paired(rows); r0 += 16)
            for (int64_t c = 0; c < ld; c++)
                for (int64_t r = r0; r < lk_min(paired(rows), r0 + 16); r++) {
                    const int inside = r < rows && c < width;
                    at_slot[(r / PAIR * ld + c) * PAIR + r % PAIR] =
                        inside ? narrowed(from[r * row_step + c * column_step]) : 0;
                }
    }
}

#if PAIR == 1
#include "product.h"
#include "gradient.h"
#include "gelu.h"
#include "attention.h"
#else
#define grad_weight NULL
#define attend NULL
#define gelu NULL
#endif

const lk_engine LK_JOIN(lk_engine, ISA) = {conv, packed, pack, grad_weight, attend, gelu};

/* SPDX-License-Identifier: Apache-2.0
 *
 * Sparse convolution, compiled once per instruction set: in float32 (-DISA=avx512, avx2, portable;
 * gradient.c, attention.c and gelu.c have the rest of those), and for inference with bfloat16 features and weights for inference (-DISA=avx512bf16), sums in float32.
 * For each tile of result rows and each kernel slot, the pairs of the tile are taken a few rows
 * at a time: the rows' partial sums live in registers while the input channels go by, so nothing
 * is gathered into a buffer. Every result row sums its slots in order, whatever the threads.
 */
#include "element.h"
#include "float32.h"
#include "kernels.h"
#include "panels.h"
#include "vectors.h"

#include <string.h>

#define DEPTH (128 * PAIR) /* input channels per pass: their weights stay in the first cache */

typedef vec (*reader)(const element *);

/* Rows of the input, where the products with the weight are added up, and how many channels. */
typedef struct {
    const element *in[MAX_ROWS];
    float *out[MAX_ROWS];
    const element *weight;
    int64_t depth;
} rows_of;

/* sum[r] += in[r][c] * weight for the channels of one multiply, which `read` takes from each row. */
INLINE void add_channels(const int rows, const int vectors, const rows_of *at, int64_t c,
                         reader read, vec (*sum)[MAX_VECTORS])
{
    const element *weight = at->weight + c * vectors * LANES;
    vec w[MAX_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) w[v] = load((const float *)(weight + v * LANES * PAIR));
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        vec a = read(at->in[r] + c);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = multiply_add(sum[r][v], a, w[v]);
    }
}

/* out[r] += sum_c in[r][c] * weight[c], for `rows` rows of `vectors` vectors each. */
INLINE void multiply(const int rows, const int vectors, const rows_of *at)
{
    vec sum[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = load(at->out[r] + v * LANES);
    const int64_t even = at->depth / PAIR * PAIR;
#pragma GCC unroll 2
    for (int64_t c = 0; c < even; c += PAIR)
        add_channels(rows, vectors, at, c, spread_at, sum);
    if (even < at->depth) add_channels(rows, vectors, at, even, spread_last, sum);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(at->out[r] + v * LANES, sum[r][v]);
}

/* A slot's pairs in one tile, and the input channels that go by. */
typedef struct {
    const lk_conv *job;
    const int32_t *in, *out; /* NULL: every row to itself */
    int64_t row0, c0, depth; /* the tile's first row; channels [c0, c0 + depth) */
    const element *weight;
    float *tile;
} slot_part;

/* `rows` pairs of one slot from pair p on, for one panel of `vectors` vectors. */
INLINE void pairs_of(const int rows, const int vectors, const slot_part *s, int64_t p)
{
    rows_of at = {.weight = s->weight, .depth = s->depth};
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const int64_t i = s->in ? s->in[p + r] : s->row0 + p + r;
        const int64_t o = s->in ? s->out[p + r] - s->row0 : p + r;
        at.in[r] = (const element *)s->job->x + s->c0 + i * s->job->ldx;
        at.out[r] = s->tile + o * (vectors * LANES);
    }
    multiply(rows, vectors, &at);
}

/* The pairs [first, last) of one slot. */
INLINE void slot_of(const int vectors, const slot_part s, int64_t first, int64_t last)
{
    const int step = ROWS_OF(vectors);
    int64_t p = first;
    for (; p + step <= last; p += step) {
        if (s.in && p + 2 * step <= last)
#pragma GCC unroll 8
            for (int r = 0; r < step; r++)
                for (int64_t c = s.c0; c < s.c0 + s.depth; c += 64 / (int64_t)sizeof(element))
                    __builtin_prefetch((const element *)s.job->x + s.in[p + step + r] * s.job->ldx + c);
        pairs_of(step, vectors, &s, p);
    }
    switch (last - p) {
    case 7: pairs_of(7, vectors, &s, p); break;
    case 6: pairs_of(6, vectors, &s, p); break;
    case 5: pairs_of(5, vectors, &s, p); break;
    case 4: pairs_of(4, vectors, &s, p); break;
    case 3: pairs_of(3, vectors, &s, p); break;
    case 2: pairs_of(2, vectors, &s, p); break;
    case 1: pairs_of(1, vectors, &s, p); break;
    }
}

static int64_t paired(int64_t channels) { return lk_ceil(channels, PAIR) * PAIR; }

/* Packed weights: panel after panel, each (slots, rows / PAIR, width * LANES, PAIR), zeros beyond
 * the end. */
static int64_t packed(int64_t slots, int64_t cin, int64_t cout)
{
    return slots * paired(cin) * lk_ceil(cout, LANES) * LANES;
}

/* The rows of some blocks for one panel, in the thread's own tile. */
static void tile_of(const lk_map *map, const lk_conv *job, panel at, int64_t block0, int64_t block1,
                    float *tile)
{
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), ld = at.vectors * LANES;
    const int64_t row0 = block0 * LK_BLOCK, rows = lk_min(map->rows, block1 * LK_BLOCK) - row0;
    const int64_t column = at.first * LANES, deep = paired(job->cin);
    const element *weight = (const element *)job->weight + map->slots * deep * column;
    memset(tile, 0, rows * ld * sizeof(float));
    for (int64_t k = 0; k < map->slots; k++) {
        const int32_t *cuts = map->cuts + k * (blocks + 1);
        const int64_t first = map->in ? cuts[block0] : 0, last = map->in ? cuts[block1] : rows;
        slot_part s = {.job = job, .row0 = row0, .tile = tile};
        s.in = map->in ? map->in + map->starts[k] : NULL;
        s.out = map->in ? map->out + map->starts[k] : NULL;
        for (s.c0 = 0; s.c0 < job->cin; s.c0 += DEPTH) {
            s.depth = lk_min(DEPTH, job->cin - s.c0);
            s.weight = weight + (k * deep + s.c0) * ld;
            switch (at.vectors) {
            case 1: slot_of(1, s, first, last); break;
            case 2: slot_of(2, s, first, last); break;
#if MAX_VECTORS > 2
            case 3: slot_of(3, s, first, last); break;
#endif
#if MAX_VECTORS > 3
            case 4: slot_of(4, s, first, last); break;
#endif
            }
        }
    }
    finish(job, (lk_tile){tile, ld, row0, rows, column, lk_min(ld, job->cout - column)});
}

static int conv(const lk_map *map, const lk_conv *job)
{
    const int64_t count = panels_of(job->cout), blocks = lk_ceil(map->rows, LK_BLOCK);
    const int64_t bytes = map->slots * paired(job->cin) * job->cout * (int64_t)sizeof(element);
    const int64_t wide = lk_tile_blocks(blocks, bytes, job->threads);
    const int64_t tiles = lk_ceil(blocks, wide);
    int status = LK_DONE;
#pragma omp parallel num_threads(job->threads)
    {
        float *tile = lk_scratch(wide * LK_BLOCK * MAX_VECTORS * LANES * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tiles * count; task++) {
            if (!tile) {
#pragma omp atomic write
                status = LK_NO_MEMORY;
                continue;
            }
            /* tile by tile while the weights stay in the cache, else panel by panel */
            const int64_t t = bytes > (1 << 20) ? task % tiles : task / count;
            const int64_t p = bytes > (1 << 20) ? task / tiles : task % count;
            const int64_t end = lk_min(blocks, (t + 1) * wide);
            tile_of(map, job, panel_at(job->cout, p), t * wide, end, tile);
        }
    }
    return status;
}

/* For the gradient of the input the roles of the two channel counts swap. */
static void pack(const lk_packing *job)
{
    const int64_t cin = job->cin, cout = job->cout, slots = job->slots;
    const int64_t rows = job->transpose ? cout : cin, columns = job->transpose ? cin : cout;
    const int64_t row_step = job->transpose ? slots * cin : 1;
    const int64_t column_step = job->transpose ? 1 : slots * cin, deep = paired(rows);
#pragma omp parallel for schedule(static) num_threads(job->threads)
    for (int64_t task = 0; task < panels_of(columns) * slots; task++) {
        const panel at = panel_at(columns, task / slots);
        const int64_t k = task % slots, ld = at.vectors * LANES, column0 = at.first * LANES;
        const int64_t width = lk_min(ld, columns - column0);
        const float *from = job->weight + k * cin + column0 * column_step;
        element *to = (element *)job->packed + slots * deep * column0 + k * deep * ld;
        for (int64_t r0 = 0; r0 < deep; r0 += 16)
            for (int64_t c = 0; c < ld; c++)
                for (int64_t r = r0; r < lk_min(deep, r0 + 16); r++) {
                    const int inside = r < rows && c < width;
                    to[(r / PAIR * ld + c) * PAIR + r % PAIR] =
                        inside ? narrowed(from[r * row_step + c * column_step]) : 0;
                }
    }
}

const lk_engine LK_JOIN(lk_engine, ISA) = {
    .conv = conv,
    .packed = packed,
    .pack = pack,
#if PAIR == 1
    .grad_weight = FOR_ISA(grad_weight),
    .attend = FOR_ISA(attend),
    .gelu = FOR_ISA(gelu),
#endif
};

/* SPDX-License-Identifier: Apache-2.0
 *
 * Sparse convolution in float32, compiled once per instruction set (-DISA=avx512, avx2, portable).
 * For each tile of result rows and each kernel slot, the pairs of the tile are taken a few rows
 * at a time: the rows' partial sums live in registers while the input channels go by, so nothing
 * is gathered into a buffer. Every result row sums its slots in order, whatever the threads.
 */
#include "kernels.h"
#include "vectors.h"

#include <stdlib.h>
#include <string.h>

#define DEPTH 128 /* input channels per pass: a panel of their weights stays in the first cache */

/* out[r] += sum_c in[r][c] * weight[c], for `rows` rows of `vectors` vectors each. */
INLINE void multiply(const int rows, const int vectors, const float *const *in, const float *weight,
                     int64_t depth, float *const *out)
{
    vec sum[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = load(out[r] + v * LANES);
#pragma GCC unroll 2
    for (int64_t c = 0; c < depth; c++) {
        vec w[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) w[v] = load(weight + (c * vectors + v) * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vec a = spread(in[r][c]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[r][v] += a * w[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(out[r] + v * LANES, sum[r][v]);
}

/* The pairs [first, last) of one slot, for one panel of `vectors` vectors. */
INLINE void slot_of(const int vectors, const lk_conv *job, const int32_t *in, const int32_t *out,
                    int64_t first, int64_t last, int64_t row0, int64_t c0, int64_t depth,
                    const float *weight, float *tile)
{
    const int step = ROWS_OF(vectors);
    const float *x = (const float *)job->x + c0;
    const int64_t ld = vectors * LANES;
    for (int64_t p = first; p < last; p += step) {
        const float *from[MAX_ROWS];
        float *to[MAX_ROWS];
        int m = (int)lk_min(step, last - p);
        for (int r = 0; r < m; r++) {
            int64_t i = in ? in[p + r] : row0 + p + r;
            int64_t o = out ? out[p + r] - row0 : p + r;
            from[r] = x + i * job->ldx;
            to[r] = tile + o * ld;
        }
        if (in)
            for (int64_t q = p + step; q < lk_min(p + 2 * step, last); q++)
                for (int64_t c = 0; c < depth; c += 16)
                    __builtin_prefetch(x + in[q] * job->ldx + c);
        switch (m) {
        case 8: multiply(8, vectors, from, weight, depth, to); break;
        case 7: multiply(7, vectors, from, weight, depth, to); break;
        case 6: multiply(6, vectors, from, weight, depth, to); break;
        case 5: multiply(5, vectors, from, weight, depth, to); break;
        case 4: multiply(4, vectors, from, weight, depth, to); break;
        case 3: multiply(3, vectors, from, weight, depth, to); break;
        case 2: multiply(2, vectors, from, weight, depth, to); break;
        case 1: multiply(1, vectors, from, weight, depth, to); break;
        }
    }
}

/* y = relu?(tile + bias? + residual?) for the columns of one panel. */
static void finish(const lk_conv *job, const float *tile, int64_t ld, int64_t row0, int64_t rows,
                   int64_t column, int64_t columns)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *from = tile + r * ld;
        float *to = (float *)job->y + (row0 + r) * job->ldy + column;
        const float *bias = job->bias ? job->bias + column : NULL;
        const float *extra =
            job->residual ? (const float *)job->residual + (row0 + r) * job->ldr + column : NULL;
        for (int64_t c = 0; c < columns; c++) {
            float sum = from[c];
            if (bias) sum += bias[c];
            if (extra) sum += extra[c];
            to[c] = job->relu && sum < 0 ? 0 : sum;
        }
    }
}

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

/* Packed weights: panel after panel, each (slots, rows, width * LANES), zeros beyond the end. */
static int64_t packed(int64_t slots, int64_t cin, int64_t cout)
{
    return slots * cin * lk_ceil(cout, LANES) * LANES;
}

static void tile_of(const lk_map *map, const lk_conv *job, panel at, const float *weight,
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
            const float *w = weight + (k * job->cin + c0) * ld;
            switch (at.vectors) {
            case 1: slot_of(1, job, in, out, first, last, row0, c0, depth, w, tile); break;
            case 2: slot_of(2, job, in, out, first, last, row0, c0, depth, w, tile); break;
#if MAX_VECTORS > 2
            case 3: slot_of(3, job, in, out, first, last, row0, c0, depth, w, tile); break;
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
    const int64_t volume = map->slots * job->cin;
    const int64_t bytes = volume * job->cout * (int64_t)sizeof(float);
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
            const float *weight = (const float *)job->weight + volume * at.first * LANES;
            tile_of(map, job, at, weight, t * wide, lk_min(blocks, (t + 1) * wide), tile);
        }
    }
}

/* weight is (cout, slots, cin), as torch holds it; the packed rows are cin, or cout for the
 * gradient of the input, where the roles of the two channel counts swap. */
static void pack(const float *weight, int64_t slots, int64_t cin, int64_t cout, int transpose,
                 int threads, void *packed)
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
        float *to = (float *)packed + slots * rows * column0 + k * rows * ld;
        for (int64_t r0 = 0; r0 < rows; r0 += 16)
            for (int64_t c = 0; c < ld; c++)
                for (int64_t r = r0; r < lk_min(rows, r0 + 16); r++)
                    to[r * ld + c] = c < width ? from[r * row_step + c * column_step] : 0;
    }
}

/* --- gradient of the weight: dw[o][k][i] = sum over pairs of slot k of dy[out][o] x[in][i] --- */

#define CHUNK 128 /* pairs packed at a time; partial sums per chunk keep float32 accurate */
#define GROUP_ROWS 2048
#define MAX_GROUPS 8

/* Gathered rows lie an odd number of cache lines apart (for the usual channel counts), so that a
 * column of them does not fall into few sets of the cache. */
static int64_t spaced(int64_t channels) { return lk_ceil(channels, 16) * 16 + 16; }

/* dw[o][i] += sum_p dy[p][o] x[p][i] for `rows` channels o and `vectors` vectors of channels i. */
INLINE void outer(const int rows, const int vectors, const float *dy, int64_t ldy, const float *x,
                  int64_t ldx, int64_t pairs, float *dw, int64_t ldw)
{
    vec sum[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) __builtin_prefetch(dw + r * ldw + v * LANES, 1);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = (vec){0};
    }
#pragma GCC unroll 2
    for (int64_t p = 0; p < pairs; p++) {
        vec w[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) w[v] = load(x + p * ldx + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vec a = spread(dy[p * ldy + r]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[r][v] += a * w[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            float *to = dw + r * ldw + v * LANES;
            store(to, load(to) + sum[r][v]);
        }
}

INLINE void outer_panel(const int vectors, const float *dy, int64_t cout, const float *x,
                        int64_t ldx, int64_t pairs, float *dw, int64_t ldw)
{
    const int step = ROWS_OF(vectors);
    const int64_t ldy = spaced(cout);
    for (int64_t o = 0; o < cout; o += step, dy += step) {
        float *to = dw + o * ldw;
        switch (lk_min(step, cout - o)) {
        case 8: outer(8, vectors, dy, ldy, x, ldx, pairs, to, ldw); break;
        case 7: outer(7, vectors, dy, ldy, x, ldx, pairs, to, ldw); break;
        case 6: outer(6, vectors, dy, ldy, x, ldx, pairs, to, ldw); break;
        case 5: outer(5, vectors, dy, ldy, x, ldx, pairs, to, ldw); break;
        case 4: outer(4, vectors, dy, ldy, x, ldx, pairs, to, ldw); break;
        case 3: outer(3, vectors, dy, ldy, x, ldx, pairs, to, ldw); break;
        case 2: outer(2, vectors, dy, ldy, x, ldx, pairs, to, ldw); break;
        case 1: outer(1, vectors, dy, ldy, x, ldx, pairs, to, ldw); break;
        }
    }
}

static void gather(const float *from, int64_t ld, const int32_t *rows, int64_t row0, int64_t count,
                   int64_t channels, float *to)
{
    for (int64_t p = 0; p < count; p++) {
        const float *row = from + (rows ? rows[p] : row0 + p) * ld;
        float *at = to + p * spaced(channels);
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES) store(at + c, load(row + c));
        for (; c < channels; c++) at[c] = row[c];
        if (rows && p + 8 < count)
            for (c = 0; c < channels; c += 16) __builtin_prefetch(from + rows[p + 8] * ld + c);
    }
}

typedef struct {
    const float *x, *dy;
    int64_t ldx, ldy, cin, cout, wide; /* wide: cin padded to whole vectors */
    const panel *panels;
    int64_t count;
} outer_job;

/* The pairs [first, last) of one slot added to dw (slots, cout, wide). */
static void outer_pairs(const lk_map *map, const outer_job *job, int64_t k, int64_t first,
                        int64_t last, float *x, float *dy, float *dw)
{
    const int64_t ldx = spaced(job->cin), cout = job->cout, wide = job->wide;
    for (int64_t p = first; p < last; p += CHUNK) {
        const int64_t pairs = lk_min(CHUNK, last - p);
        gather(job->x, job->ldx, map->in ? map->in + map->starts[k] + p : NULL, p, pairs, job->cin, x);
        gather(job->dy, job->ldy, map->in ? map->out + map->starts[k] + p : NULL, p, pairs, cout, dy);
        for (int64_t i = 0; i < job->count; i++) {
            const int64_t column = job->panels[i].first * LANES;
            const float *xs = x + column;
            float *to = dw + k * cout * wide + column;
            switch (job->panels[i].vectors) {
            case 1: outer_panel(1, dy, cout, xs, ldx, pairs, to, wide); break;
            case 2: outer_panel(2, dy, cout, xs, ldx, pairs, to, wide); break;
#if MAX_VECTORS > 2
            case 3: outer_panel(3, dy, cout, xs, ldx, pairs, to, wide); break;
            case 4: outer_panel(4, dy, cout, xs, ldx, pairs, to, wide); break;
#endif
            }
        }
    }
}

/* One group of blocks and one run of three slots (neighbours along z, which share their rows). */
static void outer_task(const lk_map *map, const outer_job *job, int64_t block0, int64_t block1,
                       int64_t slot0, float *x, float *dy, float *dw)
{
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), step = GROUP_ROWS / LK_BLOCK;
    for (int64_t b = block0; b < block1; b += step)
        for (int64_t k = slot0; k < lk_min(map->slots, slot0 + 3); k++) {
            const int32_t *cuts = map->cuts + k * (blocks + 1);
            int64_t end = lk_min(block1, b + step);
            int64_t first = map->in ? cuts[b] : b * LK_BLOCK;
            int64_t last = map->in ? cuts[end] : lk_min(map->rows, end * LK_BLOCK);
            outer_pairs(map, job, k, first, last, x, dy, dw);
        }
}

/* (groups, slots, cout, wide) to (cout, slots, cin) */
static void sum_groups(const float *parts, int64_t groups, int64_t slots, const outer_job *job,
                       int threads, float *dw)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t o = 0; o < job->cout; o++)
        for (int64_t k = 0; k < slots; k++)
            for (int64_t i = 0; i < job->cin; i++) {
                float sum = 0;
                for (int64_t g = 0; g < groups; g++)
                    sum += parts[((g * slots + k) * job->cout + o) * job->wide + i];
                dw[(o * slots + k) * job->cin + i] = sum;
            }
}

/* The groups depend on the map alone, never on the threads: the same bits on every machine. */
static void grad_weight(const lk_map *map, const float *x, int64_t ldx, const float *dy, int64_t ldy,
                        int64_t cin, int64_t cout, int threads, float *dw)
{
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), wide = lk_ceil(cin, LANES) * LANES;
    const int64_t groups = lk_max(1, lk_min(MAX_GROUPS, map->rows / GROUP_ROWS));
    const int64_t per_group = lk_ceil(blocks, groups), runs = lk_ceil(map->slots, 3);
    const int64_t count = panels_of(cin, NULL);
    panel panels[count];
    panels_of(cin, panels);
    const outer_job job = {x, dy, ldx, ldy, cin, cout, wide, panels, count};
    float *parts = calloc(groups * cout * map->slots * wide, sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *xs = lk_scratch(CHUNK * (spaced(cin) + spaced(cout)) * sizeof(float));
        float *dys = xs + CHUNK * spaced(cin);
        memset(xs, 0, CHUNK * spaced(cin) * sizeof(float)); /* beyond cin it stays 0 */
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < groups * runs; task++) {
            int64_t g = task / runs, block0 = lk_min(blocks, g * per_group);
            int64_t block1 = lk_min(blocks, block0 + per_group);
            outer_task(map, &job, block0, block1, task % runs * 3, xs, dys,
                       parts + g * cout * map->slots * wide);
        }
    }
    sum_groups(parts, groups, map->slots, &job, threads, dw);
    free(parts);
}

const lk_engine LK_JOIN(lk_engine, ISA) = {conv, packed, pack, grad_weight};

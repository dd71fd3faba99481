/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradient of the weight in float32, compiled once per instruction set:
 * dw[o][k][i] = sum over pairs of slot k of dy[out][o] x[in][i].
 */
#include "float32.h"
#include "product.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 128 /* pairs packed at a time; partial sums per chunk keep float32 accurate */
#define GROUP_ROWS 2048
#define MAX_GROUPS 8

/* Gathered rows lie an odd number of cache lines apart (for the usual channel counts), so that a
 * column of them does not fall into few sets of the cache. */
static int64_t spaced(int64_t channels) { return lk_ceil(channels, 16) * 16 + 16; }

/* Rows `ld` apart, or those that `list` names, to be packed. */
typedef struct {
    const float *from;
    int64_t ld, channels;
    const int32_t *list; /* NULL: consecutive rows from row0 */
    int64_t row0;
} source;

static void gather(const source s, int64_t count, float *to)
{
    for (int64_t p = 0; p < count; p++) {
        const float *row = s.from + (s.list ? s.list[p] : s.row0 + p) * s.ld;
        float *at = to + p * spaced(s.channels);
        int64_t c = 0;
        for (; c + LANES <= s.channels; c += LANES) store(at + c, load(row + c));
        for (; c < s.channels; c++) at[c] = row[c];
        if (s.list && p + 8 < count)
            for (c = 0; c < s.channels; c += 16)
                __builtin_prefetch(s.from + s.list[p + 8] * s.ld + c);
    }
}

/* What a thread works with; x and dy hold CHUNK packed rows. */
typedef struct {
    const lk_map *map;
    const lk_gradient *job;
    int64_t wide; /* cin padded to whole vectors */
    float *x, *dy;
    float *dw; /* (slots, cout, wide) of the task's group */
} worker;

/* The pairs [first, last) of slot k added to dw. */
static void outer_pairs(const worker *w, int64_t k, int64_t first, int64_t last)
{
    const lk_map *map = w->map;
    const lk_gradient *job = w->job;
    const int64_t cout = job->cout;
    for (int64_t p = first; p < last; p += CHUNK) {
        const int64_t pairs = lk_min(CHUNK, last - p);
        const int32_t *in = map->in ? map->in + map->starts[k] + p : NULL;
        const int32_t *out = map->in ? map->out + map->starts[k] + p : NULL;
        gather((source){job->x, job->ldx, job->cin, in, p}, pairs, w->x);
        gather((source){job->dy, job->ldy, cout, out, p}, pairs, w->dy);
        const matrices m = {w->dy, spaced(cout), w->x, spaced(job->cin),
                            w->dw + k * cout * w->wide, w->wide};
        product_turned(cout, w->wide, pairs, 1, &m);
    }
}

/* One group of blocks and one run of three slots (neighbours along z, which share their rows). */
static void outer_task(const worker *w, int64_t block0, int64_t block1, int64_t slot0)
{
    const lk_map *map = w->map;
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), step = GROUP_ROWS / LK_BLOCK;
    for (int64_t b = block0; b < block1; b += step)
        for (int64_t k = slot0; k < lk_min(map->slots, slot0 + 3); k++) {
            const int32_t *cuts = map->cuts + k * (blocks + 1);
            int64_t end = lk_min(block1, b + step);
            int64_t first = map->in ? cuts[b] : b * LK_BLOCK;
            int64_t last = map->in ? cuts[end] : lk_min(map->rows, end * LK_BLOCK);
            outer_pairs(w, k, first, last);
        }
}

/* (groups, slots, cout, wide) to (cout, slots, cin) */
static void sum_groups(const float *parts, int64_t groups, int64_t slots, int64_t wide,
                       const lk_gradient *job)
{
#pragma omp parallel for schedule(static) num_threads(job->threads)
    for (int64_t o = 0; o < job->cout; o++)
        for (int64_t k = 0; k < slots; k++)
            for (int64_t i = 0; i < job->cin; i++) {
                float sum = 0;
                for (int64_t g = 0; g < groups; g++)
                    sum += parts[((g * slots + k) * job->cout + o) * wide + i];
                job->dw[(o * slots + k) * job->cin + i] = sum;
            }
}

/* The groups depend on the map alone, never on the threads: the same bits on every machine. */
int FOR_ISA(grad_weight)(const lk_map *map, const lk_gradient *job)
{
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), wide = lk_ceil(job->cin, LANES) * LANES;
    const int64_t groups = lk_max(1, lk_min(MAX_GROUPS, map->rows / GROUP_ROWS));
    const int64_t per_group = lk_ceil(blocks, groups), runs = lk_ceil(map->slots, 3);
    const int64_t group_size = job->cout * map->slots * wide, spaced_in = spaced(job->cin);
    float *parts = calloc(groups * group_size + 1, sizeof(float));
    int status = parts ? LK_DONE : LK_NO_MEMORY;
    if (!parts) return status;
#pragma omp parallel num_threads(job->threads)
    {
        worker w = {.map = map, .job = job, .wide = wide};
        w.x = lk_scratch(CHUNK * (spaced_in + spaced(job->cout)) * sizeof(float));
        w.dy = w.x + CHUNK * spaced_in;
        if (w.x) memset(w.x, 0, CHUNK * spaced_in * sizeof(float)); /* beyond cin it stays 0 */
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < groups * runs; task++) {
            if (!w.x) {
#pragma omp atomic write
                status = LK_NO_MEMORY;
                continue;
            }
            int64_t g = task / runs, block0 = lk_min(blocks, g * per_group);
            w.dw = parts + g * group_size;
            outer_task(&w, block0, lk_min(blocks, block0 + per_group), task % runs * 3);
        }
    }
    sum_groups(parts, groups, map->slots, wide, job);
    free(parts);
    return status;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradient of the weight in float32, a part of conv.c:
 * dw[o][k][i] = sum over pairs of slot k of dy[out][o] x[in][i].
 */
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
#endif
#if MAX_VECTORS > 3
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

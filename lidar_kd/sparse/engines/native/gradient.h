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
        product_turned(cout, wide, dy, spaced(cout), x, ldx, pairs, 1, dw + k * cout * wide, wide);
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
    const outer_job job = {x, dy, ldx, ldy, cin, cout, wide};
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

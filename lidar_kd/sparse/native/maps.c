/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernel maps. Rows are sorted by key, and z is the fastest part of the key, so all z neighbours
 * of a (dx, dy) column lie together: one linear merge finds them, and the mirrored column is the
 * same pairs the other way round. A 3x3x3 map costs four merges instead of 27 searches.
 */
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

/* bits[i]: width of field i (batch, x, y, z); low[i] is subtracted first. */
LK_EXPORT void lk_keys(const int32_t *coords, int64_t n, const int32_t *low, const int32_t *bits,
                       int threads, int64_t *keys)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        int64_t key = 0;
        for (int f = 0; f < 4; f++) key = key << bits[f] | ((int64_t)coords[4 * i + f] - low[f]);
        keys[i] = key;
    }
}

/* Where each block of result rows starts in each slot (out increases inside a slot). */
LK_EXPORT void lk_cuts(const int32_t *out, const int64_t *starts, int64_t slots, int64_t rows,
                       int threads, int32_t *cuts)
{
    const int64_t blocks = lk_ceil(rows, LK_BLOCK);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < slots; k++) {
        const int32_t *slot = out + starts[k];
        int64_t pairs = starts[k + 1] - starts[k], p = 0;
        for (int64_t b = 0; b <= blocks; b++) {
            while (p < pairs && slot[p] < b * LK_BLOCK) p++;
            cuts[k * (blocks + 1) + b] = (int32_t)p;
        }
    }
}

/* --- submanifold maps --- */

typedef struct {
    int64_t shift; /* what the column adds to a key */
    int z0, z1;    /* the z offsets it covers */
    int slot;      /* slot of z0 */
} column;

/* The later half of the kernel in slot order; the earlier half mirrors it. */
static int columns_of(const int *kernel, const int32_t *bits, column *columns)
{
    const int rx = kernel[0] / 2, ry = kernel[1] / 2, rz = kernel[2] / 2;
    int count = 0;
    for (int dx = 0; dx <= rx; dx++)
        for (int dy = dx ? -ry : 0; dy <= ry; dy++) {
            int z0 = dx || dy ? -rz : 1;
            if (z0 > rz) continue;
            int64_t shift = ((int64_t)dx * (1LL << bits[2]) + dy) * (1LL << bits[3]);
            int slot = ((dx + rx) * kernel[1] + dy + ry) * kernel[2] + z0 + rz;
            columns[count++] = (column){shift, z0, rz, slot};
        }
    return count;
}

typedef struct {
    int64_t n, chunks, chunk; /* rows, and how they are shared out */
    int count, width;         /* columns, and the most z offsets of one */
    column *columns;
    int32_t *in, *out; /* (count, chunks, width, chunk) */
    int32_t *found;    /* (count, chunks, width) */
} lk_search;

static int64_t first_not_below(const int64_t *keys, int64_t n, int64_t key)
{
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (keys[middle] < key) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void merge(lk_search *s, const int64_t *keys, int64_t task)
{
    const column at = s->columns[task / s->chunks];
    const int64_t row0 = task % s->chunks * s->chunk, row1 = lk_min(s->n, row0 + s->chunk);
    int32_t *in = s->in + task * s->width * s->chunk, *out = s->out + task * s->width * s->chunk;
    int32_t *found = s->found + task * s->width;
    memset(found, 0, s->width * sizeof(int32_t));
    if (row0 >= row1) return;
    int64_t p = first_not_below(keys, s->n, keys[row0] + at.shift + at.z0);
    for (int64_t i = row0; i < row1; i++) {
        const int64_t low = keys[i] + at.shift + at.z0, high = keys[i] + at.shift + at.z1;
        while (p < s->n && keys[p] < low) p++;
        for (int64_t q = p; q < s->n && keys[q] <= high; q++) {
            int64_t z = keys[q] - low, at_z = z * s->chunk + found[z]++;
            in[at_z] = (int32_t)q;
            out[at_z] = (int32_t)i;
        }
    }
}

/* Finds all neighbours; returns a handle and, in starts (slots + 1), where each slot will begin. */
LK_EXPORT lk_search *lk_search_new(const int64_t *keys, int64_t n, const int32_t *bits,
                                   const int32_t *kernel, int threads, int64_t *starts)
{
    const int slots = kernel[0] * kernel[1] * kernel[2];
    lk_search *s = calloc(1, sizeof(lk_search));
    s->n = n;
    s->width = kernel[2];
    s->chunks = threads > 1 ? 2 * threads : 1;
    s->chunk = lk_max(1, lk_ceil(n, s->chunks));
    s->columns = malloc(slots * sizeof(column));
    s->count = columns_of(kernel, bits, s->columns);
    const int64_t tasks = s->count * s->chunks;
    s->in = malloc(tasks * s->width * s->chunk * sizeof(int32_t) + 1);
    s->out = malloc(tasks * s->width * s->chunk * sizeof(int32_t) + 1);
    s->found = malloc(tasks * s->width * sizeof(int32_t) + 1);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t task = 0; task < tasks; task++) merge(s, keys, task);
    memset(starts, 0, (slots + 1) * sizeof(int64_t));
    starts[slots / 2 + 1] = n;
    for (int64_t task = 0; task < tasks; task++) {
        const column at = s->columns[task / s->chunks];
        for (int z = 0; z <= at.z1 - at.z0; z++) {
            int32_t found = s->found[task * s->width + z];
            starts[at.slot + z + 1] += found;
            starts[slots - 1 - at.slot - z + 1] += found;
        }
    }
    for (int k = 0; k < slots; k++) starts[k + 1] += starts[k];
    return s;
}

/* Writes the pairs (both halves and the centre) and frees the handle. */
LK_EXPORT void lk_search_take(lk_search *s, const int32_t *kernel, const int64_t *starts, int threads,
                              int32_t *in, int32_t *out)
{
    const int slots = kernel[0] * kernel[1] * kernel[2];
    const int64_t centre = starts[slots / 2];
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int c = -1; c < s->count; c++) {
        if (c < 0) {
            for (int64_t i = 0; i < s->n; i++) in[centre + i] = out[centre + i] = (int32_t)i;
            continue;
        }
        const column at = s->columns[c];
        for (int z = 0; z <= at.z1 - at.z0; z++) {
            int64_t to = starts[at.slot + z], mirror = starts[slots - 1 - at.slot - z];
            for (int64_t j = 0; j < s->chunks; j++) {
                const int64_t task = c * s->chunks + j, bytes = s->found[task * s->width + z] * 4;
                const int64_t from = (task * s->width + z) * s->chunk;
                if (bytes == 0) continue;
                memcpy(in + to, s->in + from, bytes);
                memcpy(out + to, s->out + from, bytes);
                memcpy(in + mirror, s->out + from, bytes);
                memcpy(out + mirror, s->in + from, bytes);
                to += bytes / 4;
                mirror += bytes / 4;
            }
        }
    }
    free(s->columns);
    free(s->in);
    free(s->out);
    free(s->found);
    free(s);
}

/* --- sorting --- */

#define DIGIT 11

/* Stable radix sort of keys with their rows; digits that never vary are skipped.
 * keys and rows are replaced by the sorted ones; spare has room for n of each. */
static void sort_keys(uint64_t **keys, int32_t **rows, uint64_t **spare_keys, int32_t **spare_rows,
                      int64_t n)
{
    uint64_t varies = 0;
    for (int64_t i = 1; i < n; i++) varies |= (*keys)[i] ^ (*keys)[0];
    for (int shift = 0; shift < 64; shift += DIGIT) {
        if (!(varies >> shift & ((1 << DIGIT) - 1))) continue;
        int64_t at[1 << DIGIT] = {0}, sum = 0;
        for (int64_t i = 0; i < n; i++) at[(*keys)[i] >> shift & ((1 << DIGIT) - 1)]++;
        for (int d = 0; d < 1 << DIGIT; d++) {
            int64_t count = at[d];
            at[d] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < n; i++) {
            int64_t to = at[(*keys)[i] >> shift & ((1 << DIGIT) - 1)]++;
            (*spare_keys)[to] = (*keys)[i];
            (*spare_rows)[to] = (*rows)[i];
        }
        uint64_t *k = *keys;
        int32_t *r = *rows;
        *keys = *spare_keys;
        *rows = *spare_rows;
        *spare_keys = k;
        *spare_rows = r;
    }
}

/* Rows with equal keys, numbered in key order: group[i] is row i's number, order the rows sorted
 * by (key, row), first[g] where group g starts in order. Rows with a negative key get group -1.
 * Returns the number of groups; all three outputs have room for n (first: n + 1). */
LK_EXPORT int64_t lk_group(const int64_t *keys, int64_t n, int32_t *group, int32_t *order,
                           int32_t *first)
{
    uint64_t *k = malloc((2 * n + 1) * sizeof(uint64_t)), *spare_k = k + n, *base = k;
    int32_t *r = malloc((2 * n + 1) * sizeof(int32_t)), *spare_r = r + n, *base_r = r;
    int64_t kept = 0, groups = 0;
    for (int64_t i = 0; i < n; i++) {
        group[i] = -1;
        if (keys[i] < 0) continue;
        k[kept] = (uint64_t)keys[i];
        r[kept++] = (int32_t)i;
    }
    sort_keys(&k, &r, &spare_k, &spare_r, kept);
    for (int64_t i = 0; i < kept; i++) {
        if (i == 0 || k[i] != k[i - 1]) first[groups++] = (int32_t)i;
        group[r[i]] = (int32_t)(groups - 1);
        order[i] = r[i];
    }
    first[groups] = (int32_t)kept;
    free(base);
    free(base_r);
    return groups;
}

/* means (groups, columns) of the rows of each group, as lk_group gives them. */
LK_EXPORT void lk_means(const float *rows, int64_t columns, const int32_t *order,
                        const int32_t *first, int64_t groups, int threads, float *means)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t g = 0; g < groups; g++) {
        float *sum = means + g * columns;
        memset(sum, 0, columns * sizeof(float));
        for (int32_t i = first[g]; i < first[g + 1]; i++)
            for (int64_t c = 0; c < columns; c++) sum[c] += rows[order[i] * columns + c];
        for (int64_t c = 0; c < columns; c++) sum[c] /= (float)(first[g + 1] - first[g]);
    }
}

/* --- strided maps --- */

/* One coarse row per occupied cell of `stride` (each 1 or 2) cells; low and bits are of the coarse
 * cells' keys. Writes their coordinates, the pairs of every slot (in: fine row, out: coarse row)
 * and starts; returns the coarse rows. */
LK_EXPORT int64_t lk_stride(const int32_t *coords, int64_t n, const int32_t *stride,
                            const int32_t *low, const int32_t *bits, int32_t *coarse, int32_t *in,
                            int32_t *out, int64_t *starts)
{
    const int sx = stride[0] - 1, sy = stride[1] - 1, sz = stride[2] - 1;
    const int slots = stride[0] * stride[1] * stride[2];
    int64_t *keys = malloc((n + 1) * sizeof(int64_t)), at[8] = {0};
    int32_t *work = malloc((3 * n + 1) * sizeof(int32_t));
    int32_t *group = work, *order = work + n, *first = work + 2 * n;
    uint8_t *slot = malloc(n + 1);
    for (int64_t i = 0; i < n; i++) {
        const int32_t *c = coords + 4 * i;
        int64_t key = c[0] - low[0];
        key = key << bits[1] | (int64_t)((c[1] >> sx) - low[1]);
        key = key << bits[2] | (int64_t)((c[2] >> sy) - low[2]);
        keys[i] = key << bits[3] | (int64_t)((c[3] >> sz) - low[3]);
        slot[i] = (uint8_t)(((c[1] & sx) * stride[1] + (c[2] & sy)) * stride[2] + (c[3] & sz));
        at[slot[i]]++;
    }
    const int64_t groups = lk_group(keys, n, group, order, first);
    for (int64_t g = 0; g < groups; g++) {
        const int32_t *c = coords + 4 * (int64_t)order[first[g]];
        const int32_t cell[4] = {c[0], c[1] >> sx, c[2] >> sy, c[3] >> sz};
        memcpy(coarse + 4 * g, cell, sizeof(cell));
    }
    starts[0] = 0;
    for (int k = 0; k < slots; k++) {
        starts[k + 1] = starts[k] + at[k];
        at[k] = starts[k];
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t to = at[slot[i]]++;
        in[to] = (int32_t)i;
        out[to] = group[i];
    }
    free(keys);
    free(work);
    free(slot);
    return groups;
}

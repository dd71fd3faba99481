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
        uint64_t key = 0;
        for (int f = 0; f < 4; f++) 
            key = key << bits[f] | (uint64_t)((int64_t)coords[4 * i + f] - low[f]);
        keys[i] = (int64_t)key;
    }
}

/* Whether pairs name rows that are there, and `out` increases inside each slot. */
LK_EXPORT int lk_check(const lk_map *map, int64_t inputs, int threads)
{
    int wrong = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : wrong)
    for (int64_t k = 0; k < map->slots; k++) {
        int64_t last = -1;
        for (int64_t p = map->starts[k]; p < map->starts[k + 1]; p++) {
            const int64_t in = map->in[p], out = map->out[p];
            wrong |= in < 0 || in >= inputs || out <= last || out >= map->rows;
            last = out;
        }
    }
    return wrong ? LK_OUT_OF_RANGE : LK_DONE;
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

/* Far cells' keys may pass the largest number: they wrap, and find nothing. */
static inline int64_t moved(int64_t key, int64_t by)
{
    return (int64_t)((uint64_t)key + (uint64_t)by);
}

static void merge(lk_search *s, const int64_t *keys, int64_t task)
{
    const column at = s->columns[task / s->chunks];
    const int64_t row0 = task % s->chunks * s->chunk, row1 = lk_min(s->n, row0 + s->chunk);
    int32_t *in = s->in + task * s->width * s->chunk, *out = s->out + task * s->width * s->chunk;
    int32_t *found = s->found + task * s->width;
    memset(found, 0, s->width * sizeof(int32_t));
    if (row0 >= row1) return;
    int64_t p = first_not_below(keys, s->n, moved(keys[row0], at.shift + at.z0));
    for (int64_t i = row0; i < row1; i++) {
        const int64_t low = moved(keys[i], at.shift + at.z0);
        const int64_t high = moved(keys[i], at.shift + at.z1);
        while (p < s->n && keys[p] < low) p++;
        for (int64_t q = p; q < s->n && keys[q] <= high; q++) {
            int64_t z = keys[q] - low, at_z = z * s->chunk + found[z]++;
            in[at_z] = (int32_t)q;
            out[at_z] = (int32_t)i;
        }
    }
}

static void discard(lk_search *s)
{
    free(s->columns);
    free(s->in);
    free(s->out);
    free(s->found);
    free(s);
}

/* What the room for neighbours relies on. */
static int ascend(const int64_t *keys, int64_t n)
{
    int wrong = n > 0 && keys[0] < 0;
    for (int64_t i = 1; i < n; i++) wrong |= keys[i] <= keys[i - 1];
    return !wrong;
}

/* Finds all neighbours; NULL where it cannot, with the reason in starts[0]. Else a handle and, in starts (slots + 1), where each slot will begin. */
LK_EXPORT lk_search *lk_search_new(const int64_t *keys, int64_t n, const int32_t *bits,
                                   const int32_t *kernel, int threads, int64_t *starts)
{
    const int slots = kernel[0] * kernel[1] * kernel[2];
    starts[0] = LK_NOT_SORTED;
    if (!ascend(keys, n)) return NULL;
    starts[0] = LK_NO_MEMORY;
    lk_search *s = calloc(1, sizeof(lk_search));
    if (!s) return NULL;
    s->n = n;
    s->width = kernel[2];
    s->chunks = threads > 1 ? 2 * threads : 1;
    s->chunk = lk_max(1, lk_ceil(n, s->chunks));
    s->columns = malloc(slots * sizeof(column));
    s->count = s->columns ? columns_of(kernel, bits, s->columns) : 0;
    const int64_t tasks = s->count * s->chunks;
    s->in = malloc(tasks * s->width * s->chunk * sizeof(int32_t) + 1);
    s->out = malloc(tasks * s->width * s->chunk * sizeof(int32_t) + 1);
    s->found = malloc(tasks * s->width * sizeof(int32_t) + 1);
    if (!s->columns || !s->in || !s->out || !s->found) {
        discard(s);
        return NULL;
    }
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
    discard(s);
}

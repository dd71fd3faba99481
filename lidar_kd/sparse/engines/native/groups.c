/* SPDX-License-Identifier: Apache-2.0
 *
 * Points to voxels: rows with equal keys, and the mean of each group.
 */
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

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
 * Returns the number of groups, or LK_NO_MEMORY; all three outputs have room for n (first: n + 1). */
LK_EXPORT int64_t lk_group(const int64_t *keys, int64_t n, int32_t *group, int32_t *order,
                           int32_t *first)
{
    uint64_t *k = malloc((2 * n + 1) * sizeof(uint64_t)), *spare_k = k + n, *base = k;
    int32_t *r = malloc((2 * n + 1) * sizeof(int32_t)), *spare_r = r + n, *base_r = r;
    int64_t kept = 0, groups = 0;
    if (!k || !r) {
        free(base);
        free(base_r);
        return LK_NO_MEMORY;
    }
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

/* The sum of a group's rows, then its mean; false where the group names what is not there. */
static int mean_of(const lk_groups *job, int64_t g)
{
    const int64_t columns = job->columns, first = job->first[g], last = job->first[g + 1];
    float *sum = job->means + g * columns;
    memset(sum, 0, columns * sizeof(float));
    if (first < 0 || first > last || last > job->ordered) return 0;
    for (int64_t i = first; i < last; i++) {
        const int64_t row = job->order[i];
        if (row < 0 || row >= job->rows) return 0;
        for (int64_t c = 0; c < columns; c++) sum[c] += job->values[row * columns + c];
    }
    for (int64_t c = 0; c < columns; c++) sum[c] /= (float)(last - first);
    return 1;
}

LK_EXPORT int lk_means(const lk_groups *job)
{
    int wrong = 0;
#pragma omp parallel for schedule(static) num_threads(job->threads) reduction(| : wrong)
    for (int64_t g = 0; g < job->groups; g++) wrong |= !mean_of(job, g);
    return wrong ? LK_OUT_OF_RANGE : LK_DONE;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Strided maps. The fine rows are sorted by (batch, x, y, z), so those of a coarse column are at
 * most two planes of two columns, each in order of z: merges, and no sorting.
 */
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t at, end; /* rows */
} run;

/* The rows from `at` on that share its plane: batch and x. */
static run plane_from(const int32_t *coords, int64_t at, int64_t end)
{
    run plane = {at, at};
    while (plane.end < end && !memcmp(coords + 4 * plane.end, coords + 4 * at, 8)) plane.end++;
    return plane;
}

/* The rows of a plane from its first on that share y. */
static run column_from(const int32_t *coords, run plane)
{
    const int32_t y = coords[4 * plane.at + 2];
    run column = {plane.at, plane.at + 1};
    while (column.end < plane.end && coords[4 * column.end + 2] == y) column.end++;
    return column;
}

/* What one walk over the fine cells keeps. */
typedef struct {
    const int32_t *coords;
    int shift[4];
    int32_t *coarse, *group; /* the coarse cells, and each fine row's among them */
    int64_t groups;
} walk;

static int32_t coarse_at(const walk *w, int64_t row, int field)
{
    return w->coords[4 * row + field] >> w->shift[field];
}

/* Runs that share their coarse batch, x and y, each in order of z, merged. */
static void merge_runs(walk *w, run *runs, int count)
{
    for (;;) {
        int64_t next = -1;
        for (int r = 0; r < count; r++)
            if (runs[r].at < runs[r].end &&
                (next < 0 || coarse_at(w, runs[r].at, 3) < coarse_at(w, next, 3)))
                next = runs[r].at;
        if (next < 0) return;
        int32_t *cell = w->coarse + 4 * w->groups;
        for (int f = 0; f < 4; f++) cell[f] = coarse_at(w, next, f);
        for (int r = 0; r < count; r++)
            while (runs[r].at < runs[r].end && coarse_at(w, runs[r].at, 3) == cell[3])
                w->group[runs[r].at++] = (int32_t)w->groups;
        w->groups++;
    }
}

/* Planes that share their coarse batch and x: the rows of each coarse y, up to two in a plane. */
static void merge_planes(walk *w, run *planes, int count)
{
    for (;;) {
        run runs[4];
        int found = 0, first = -1;
        for (int p = 0; p < count; p++)
            if (planes[p].at < planes[p].end &&
                (first < 0 ||
                 coarse_at(w, planes[p].at, 2) < coarse_at(w, planes[first].at, 2)))
                first = p;
        if (first < 0) return;
        const int32_t y = coarse_at(w, planes[first].at, 2);
        for (int p = 0; p < count; p++)
            while (planes[p].at < planes[p].end && coarse_at(w, planes[p].at, 2) == y) {
                runs[found] = column_from(w->coords, planes[p]);
                planes[p].at = runs[found++].end;
            }
        merge_runs(w, runs, found);
    }
}

static void merge_all(walk *w, int64_t n)
{
    for (int64_t row = 0; row < n;) {
        run planes[2] = {plane_from(w->coords, row, n)};
        const int64_t next = planes[0].end;
        const int second = next < n && w->coords[4 * next] == w->coords[4 * row] &&
                           coarse_at(w, next, 1) == coarse_at(w, row, 1);
        if (second) planes[1] = plane_from(w->coords, next, n);
        row = planes[second].end;
        merge_planes(w, planes, 1 + second);
    }
}

/* The pairs of every slot, which is where in its coarse cell a fine one lies. */
static void sort_by_slot(const walk *w, const lk_striding *job, uint8_t *slot)
{
    const int32_t *stride = job->stride;
    const int slots = stride[0] * stride[1] * stride[2];
    int64_t at[8] = {0};
    for (int64_t i = 0; i < job->rows; i++) {
        const int32_t *c = w->coords + 4 * i;
        const int x = c[1] & w->shift[1], y = c[2] & w->shift[2], z = c[3] & w->shift[3];
        slot[i] = (uint8_t)((x * stride[1] + y) * stride[2] + z);
        at[slot[i]]++;
    }
    job->starts[0] = 0;
    for (int k = 0; k < slots; k++) {
        job->starts[k + 1] = job->starts[k] + at[k];
        at[k] = job->starts[k];
    }
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t to = at[slot[i]]++;
        job->in[to] = (int32_t)i;
        job->out[to] = w->group[i];
    }
}

/* What the merges rely on: they have no room for more than two planes of two columns. */
static int ascend(const int32_t *coords, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        const int32_t *a = coords + 4 * (i - 1), *b = coords + 4 * i;
        int f = 0;
        while (f < 3 && a[f] == b[f]) f++;
        if (a[f] >= b[f]) return 0;
    }
    return 1;
}

/* One coarse row per occupied cell of `stride` (each 1 or 2) cells; in: fine row, out: coarse row.
 * Returns how many there are, or what went wrong. */
LK_EXPORT int64_t lk_stride(const lk_striding *job)
{
    const int32_t *s = job->stride;
    if (!ascend(job->coords, job->rows)) return LK_NOT_SORTED;
    int32_t *group = malloc((job->rows + 1) * sizeof(int32_t));
    uint8_t *slot = malloc(job->rows + 1);
    walk w = {job->coords, {0, s[0] - 1, s[1] - 1, s[2] - 1}, job->coarse, group, 0};
    const int room = group && slot;
    if (room) {
        merge_all(&w, job->rows);
        sort_by_slot(&w, job, slot);
    }
    free(group);
    free(slot);
    return room ? w.groups : LK_NO_MEMORY;
}

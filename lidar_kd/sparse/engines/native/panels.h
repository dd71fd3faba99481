/* SPDX-License-Identifier: Apache-2.0
 *
 * The columns of a result, split into panels of nearly equal width that registers can hold.
 */
#ifndef LIDAR_KD_PANELS_H
#define LIDAR_KD_PANELS_H

#include "kernels.h"
#include "vectors.h"

typedef struct {
    int64_t vectors, first; /* width of the panel and its first vector */
} panel;

static inline int64_t panels_of(int64_t columns)
{
    return lk_ceil(lk_ceil(columns, LANES), MAX_VECTORS);
}

static inline panel panel_at(int64_t columns, int64_t p)
{
    const int64_t vectors = lk_ceil(columns, LANES), count = panels_of(columns);
    const int64_t width = vectors / count, wider = vectors % count;
    return (panel){width + (p < wider), p * width + lk_min(p, wider)};
}

#endif

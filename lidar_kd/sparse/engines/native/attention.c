/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention inside patches in float32, compiled once per instruction set: y = softmax(q k^T / sqrt(width)) v for
 * each head of each patch, and its gradient. Heads are narrow (8 to 32 channels), so a head's keys
 * and values stay in the first cache and a few queries look at all of them at once.
 */
#include "float32.h"
#include "powers.h"
#include "product.h"

#include <math.h>

#define QUERIES 24 /* looking at a time; whole numbers of every ROWS_OF */

/* Halves are joined until one number is left: shorter chains than lane by lane. */
INLINE float largest_of(vec v)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) v[l] = v[l + half] > v[l] ? v[l + half] : v[l];
    return v[0];
}

INLINE float sum_of(vec v)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) v[l] += v[l + half];
    return v[0];
}

/* row[i] = 2^(row[i] - its largest), in place, for `vectors` vectors; returns 1 / the sum. */
static float soften(float *row, int64_t vectors)
{
    vec most = load(row), sum = {0};
    for (int64_t v = 1; v < vectors; v++) most = larger(load(row + v * LANES), most);
    const float largest = largest_of(most);
    for (int64_t v = 0; v < vectors; v++) {
        const vec p = power_of_two(load(row + v * LANES) - largest);
        store(row + v * LANES, p);
        sum += p;
    }
    return 1 / sum_of(sum);
}

/* What a head of a patch works with: `size` keys, padded to whole vectors, of `width` channels. */
typedef struct {
    const float *q, *k, *v, *dy;
    float *y, *dq, *dk, *dv;
    int64_t size, width, ld, ldy; /* rows of q, k, v and of y, dy are this far apart */
    int64_t padded, wide;         /* size and width in whole vectors */
    float scale;
} lk_head;

/* (size, width) to (size, wide), zeros beyond width */
static void pack_rows(const lk_head *h, const float *from, float *to)
{
    for (int64_t i = 0; i < h->size; i++)
        for (int64_t c = 0; c < h->wide; c++)
            to[i * h->wide + c] = c < h->width ? from[i * h->ld + c] : 0;
}

/* (size, width) to its transpose (width, padded) times a factor, zeros beyond size */
static void pack_columns(const lk_head *h, const float *from, float factor, float *to)
{
    for (int64_t c = 0; c < h->width; c++) {
        float *column = to + c * h->padded;
        for (int64_t i = 0; i < h->size; i++) column[i] = from[i * h->ld + c] * factor;
        for (int64_t i = h->size; i < h->padded; i++) column[i] = 0;
    }
}

static lk_head head_of(const lk_attention *job, int64_t task)
{
    const int64_t patch = task / job->heads, channels = job->heads * job->width;
    const int64_t column = task % job->heads * job->width, row = patch * job->size;
    const float *q = job->qkv + row * 3 * channels + column;
    lk_head head = {.q = q, .k = q + channels, .v = q + 2 * channels};
    head.size = job->size, head.width = job->width, head.ld = 3 * channels, head.ldy = channels;
    head.padded = lk_ceil(job->size, LANES) * LANES, head.wide = lk_ceil(job->width, LANES) * LANES;
    head.scale = job->scale;
    if (job->y) head.y = job->y + row * channels + column;
    if (!job->dqkv) return head;
    head.dy = job->dy + row * channels + column;
    head.dq = job->dqkv + row * 3 * channels + column;
    head.dk = head.dq + channels, head.dv = head.dk + channels;
    return head;
}

/* p (rows, padded) = 2^(q k^T - largest), its sums' inverses; keys: (width, padded), scaled. */
static void look(const lk_head *h, int64_t first, int64_t rows, const float *keys, float *p,
                 float *inverse)
{
    const matrices m = {h->q + first * h->ld, h->ld, keys, h->padded, p, h->padded};
    product(rows, h->padded, h->width, 0, &m);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = h->size; i < h->padded; i++) p[r * h->padded + i] = -INFINITY;
        inverse[r] = soften(p + r * h->padded, h->padded / LANES);
    }
}

static void attend_head(const lk_head *h, float *work)
{
    float *keys = work, *values = keys + h->width * h->padded;
    float *p = values + h->size * h->wide, *y = p + QUERIES * h->padded;
    float inverse[QUERIES];
    pack_columns(h, h->k, h->scale * LOG2_E, keys);
    pack_rows(h, h->v, values);
    for (int64_t first = 0; first < h->size; first += QUERIES) {
        const int64_t rows = lk_min(QUERIES, h->size - first);
        look(h, first, rows, keys, p, inverse);
        product(rows, h->wide, h->size, 0,
                &(matrices){p, h->padded, values, h->wide, y, h->wide});
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < h->width; c++)
                h->y[(first + r) * h->ldy + c] = y[r * h->wide + c] * inverse[r];
    }
}

/* p becomes a row of the softmax, g (its gradient) that of what went into it. */
static void through_softmax(float *p, float *g, float inverse, int64_t vectors)
{
    vec sum = {0};
    for (int64_t v = 0; v < vectors * LANES; v += LANES) {
        const vec share = load(p + v) * inverse;
        store(p + v, share);
        sum += share * load(g + v);
    }
    const float mean = sum_of(sum);
    for (int64_t v = 0; v < vectors * LANES; v += LANES)
        store(g + v, load(p + v) * (load(g + v) - mean));
}

/* With p the softmax: dv = p^T dy; g = p (dy v^T - its mean under p); dq = g k; dk = g^T q. */
static void attend_back(const lk_head *h, float *work)
{
    const int64_t turned = h->width * h->padded, straight = h->size * h->wide;
    float *keys = work, *values = keys + turned, *dk = values + turned, *dv = dk + turned;
    float *rows_of_k = dv + turned, *p = rows_of_k + straight, *g = p + QUERIES * h->padded;
    float *dq = g + QUERIES * h->padded, inverse[QUERIES];
    pack_columns(h, h->k, h->scale * LOG2_E, keys);
    pack_columns(h, h->v, 1, values);
    pack_rows(h, h->k, rows_of_k);
    for (int64_t first = 0; first < h->size; first += QUERIES) {
        const int64_t rows = lk_min(QUERIES, h->size - first), add = first > 0;
        const float *q = h->q + first * h->ld, *dy = h->dy + first * h->ldy;
        look(h, first, rows, keys, p, inverse);
        product(rows, h->padded, h->width, 0,
                &(matrices){dy, h->ldy, values, h->padded, g, h->padded});
        for (int64_t r = 0; r < rows; r++)
            through_softmax(p + r * h->padded, g + r * h->padded, inverse[r], h->padded / LANES);
        product(rows, h->wide, h->size, 0,
                &(matrices){g, h->padded, rows_of_k, h->wide, dq, h->wide});
        product_turned(h->width, h->padded, rows, add,
                       &(matrices){q, h->ld, g, h->padded, dk, h->padded});
        product_turned(h->width, h->padded, rows, add,
                       &(matrices){dy, h->ldy, p, h->padded, dv, h->padded});
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < h->width; c++)
                h->dq[(first + r) * h->ld + c] = dq[r * h->wide + c] * h->scale;
    }
    for (int64_t i = 0; i < h->size; i++)
        for (int64_t c = 0; c < h->width; c++) {
            h->dk[i * h->ld + c] = dk[c * h->padded + i] * h->scale;
            h->dv[i * h->ld + c] = dv[c * h->padded + i];
        }
}

/* Heads are independent: the same bits for any number of threads. */
int FOR_ISA(attend)(const lk_attention *job)
{
    int status = LK_DONE;
    const lk_head any = head_of(job, 0);
    const int64_t turned = any.width * any.padded, straight = any.size * any.wide;
    const int64_t few = QUERIES * (any.padded * 2 + any.wide), floats = 4 * turned + straight + few;
#pragma omp parallel num_threads(job->threads)
    {
        float *work = lk_scratch(floats * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < job->patches * job->heads; task++) {
            if (!work) {
#pragma omp atomic write
                status = LK_NO_MEMORY;
                continue;
            }
            const lk_head head = head_of(job, task);
            if (job->dqkv) attend_back(&head, work);
            else attend_head(&head, work);
        }
    }
    return status;
}

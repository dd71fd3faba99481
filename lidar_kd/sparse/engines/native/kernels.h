/* SPDX-License-Identifier: Apache-2.0
 *
 * The native engine: sparse convolution, attention, kernel maps and voxel sorting for CPUs.
 * Plain C with GCC vector extensions and OpenMP, no torch headers, loaded through ctypes.
 *
 * Words used throughout
 *   pair    (in, out, slot): row `out` of the result receives row `in` of the input times
 *           the weight of kernel slot `slot`. Pairs lie slot by slot, and inside a slot both
 *           `in` and `out` increase, so a map and its transpose are the same two arrays.
 *   block   LK_BLOCK consecutive result rows; `cuts[slot][block]` is where a block's pairs
 *           start inside its slot, so any run of blocks is a contiguous run of pairs.
 *   tile    the run of blocks one thread accumulates in its cache.
 *   panel   the columns of the result one microkernel keeps in registers.
 */
#ifndef LIDAR_KD_KERNELS_H
#define LIDAR_KD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define LK_EXPORT __attribute__((visibility("default")))
#define LK_BLOCK 128

/* A kernel map; in == NULL stands for the identity (a linear layer, one slot). */
typedef struct {
    const int32_t *in, *out;
    const int64_t *starts; /* (slots + 1): where each slot's pairs begin */
    const int32_t *cuts;   /* (slots, blocks + 1), relative to starts */
    int64_t slots, rows;   /* rows of the result */
} lk_map;

/* y = relu?(sum over pairs + bias? + residual?); the strides ld* are in elements. */
typedef struct {
    const void *x;
    void *y;
    const void *weight; /* packed by the pack function of the same engine */
    const float *bias;
    const void *residual;
    int64_t ldx, ldy, ldr;
    int32_t cin, cout;
    int32_t relu, threads;
} lk_conv;

/* Sums of a tile's rows, `ld` apart, and where in the result they belong. */
typedef struct {
    const float *sums;
    int64_t ld, row0, rows, column, columns;
} lk_tile;

/* qkv (patches, size, 3, heads, width) to y (patches, size, heads, width), or, with dqkv, the
 * gradient dy of y to that of qkv. */
typedef struct {
    const float *qkv, *dy;
    float *y, *dqkv;
    int64_t patches, size, heads, width;
    float scale;
    int32_t threads;
} lk_attention;

/* weight (cout, slots, cin), as torch holds it, to what `conv` reads; transpose = 0: rows are cin
 * (forward); 1: rows are cout (gradient of the input). */
typedef struct {
    const float *weight;
    void *packed;
    int64_t slots, cin, cout;
    int32_t transpose, threads;
} lk_packing;

/* The gradient dw (cout, slots, cin) of the weight from x and the gradient dy of the result. */
typedef struct {
    const float *x, *dy;
    float *dw;
    int64_t ldx, ldy, cin, cout;
    int32_t threads;
} lk_gradient;

/* Batch norm in training: relu?(x * scale + shift + residual?), and back. */
typedef struct {
    const float *x, *residual, *y, *dy, *weight, *bias, *mean, *inverse;
    float *out, *dx, *dresidual, *dweight, *dbias;
    int64_t rows, channels;
    int32_t relu, threads;
} lk_norm;

/* means (groups, columns) of the rows of each group, as lk_group gives them; rows and ordered are
 * how many there are of `values` and of `order`. */
typedef struct {
    const float *values;
    const int32_t *order, *first;
    float *means;
    int64_t rows, ordered, groups, columns;
    int32_t threads;
} lk_groups;

/* label: the first largest logit; probability: its softmax; entropy: -sum p ln p / ln classes. */
typedef struct {
    const float *logits;
    uint8_t *label;
    float *probability, *entropy;
    int64_t rows, classes;
    int32_t threads;
} lk_row_answers;

/* One per cell of `stride` fine cells: coarse coordinates, and the pairs of every slot. */
typedef struct {
    const int32_t *coords, *stride;
    int32_t *coarse, *in, *out;
    int64_t *starts;
    int64_t rows;
} lk_striding;

/* What can go wrong, as a negative count or a status. */
enum { LK_DONE = 0, LK_NO_MEMORY = -1, LK_NOT_SORTED = -2, LK_OUT_OF_RANGE = -3 };

/* One instruction set; those of bfloat16 have the convolution alone. */
typedef struct {
    int (*conv)(const lk_map *, const lk_conv *);
    int64_t (*packed)(int64_t slots, int64_t cin, int64_t cout);
    void (*pack)(const lk_packing *);
    int (*grad_weight)(const lk_map *, const lk_gradient *);
    int (*attend)(const lk_attention *);
    /* of `count` numbers x, or, with dy, the gradient of x */
    void (*gelu)(const float *x, const float *dy, int64_t count, int threads, float *to);
} lk_engine;

#define LK_JOIN2(a, b) a##_##b
#define LK_JOIN(a, b) LK_JOIN2(a, b)

static inline int64_t lk_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t lk_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t lk_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* At least `bytes` of this thread's working memory, page aligned; valid until its next call. NULL
 * when there is no more. */
void *lk_scratch(size_t bytes);

/* How many blocks make a tile: large enough that the weights are read rarely when they do not
 * fit the cache, small enough that every thread gets work. */
static inline int64_t lk_tile_blocks(int64_t blocks, int64_t weight_bytes, int64_t threads)
{
    int64_t most = weight_bytes > (1 << 19) ? 16 : 4;
    int64_t fair = lk_ceil(blocks, threads);
    int64_t rounds = lk_max(1, lk_ceil(fair, most));
    return lk_max(1, lk_ceil(fair, rounds));
}

#endif

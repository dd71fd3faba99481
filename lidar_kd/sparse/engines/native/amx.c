/* SPDX-License-Identifier: Apache-2.0
 *
 * Sparse convolution on the AMX matrix units of x86 CPUs. The pairs of a slot are packed sixteen
 * rows at a time (a matrix tile needs rows at one stride), multiplied as bfloat16 with sums in
 * float32, and added to the tile of result rows in the cache. Two engines:
 *   lk_engine_amx    bfloat16 in and out, for inference;
 *   lk_engine_split  float32 in and out: a number is a high and a low bfloat16, and of the four
 *                    products the three large ones are kept (relative error about 4e-6), as
 *                    torch.set_float32_matmul_precision('high') allows. Infinite becomes NaN.
 */
#include "amx.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_config;

int lk_amx_permitted(void)
{
    const int request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bf16") &&
           syscall(SYS_arch_prctl, request, tile_data) == 0;
}

static void configure(void)
{
    tile_config config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.bytes[t] = 64;
        config.rows[t] = SIDE;
    }
    _tile_loadconfig(&config);
}

/* sums (tall * 16, wide * 16) = rows (tall * 16, depth) * weight; weight holds, chunk of depth
 * after chunk, `wide` tiles of 16 channel pairs by 16 columns. tall * wide <= 4. */
INLINE void multiply(const int tall, const int wide, const bf16 *rows, int64_t depth,
                     const bf16 *weight, float *sums)
{
    const int64_t step = wide * SIDE * DEPTH;
    _tile_zero(0);
    if (tall * wide > 1) _tile_zero(1);
    if (tall * wide > 2) _tile_zero(2);
    if (tall * wide > 3) _tile_zero(3);
    for (int64_t c = 0; c < depth; c += DEPTH, weight += step) {
        _tile_loadd(4, rows + c, depth * 2);
        if (tall > 1) _tile_loadd(5, rows + SIDE * depth + c, depth * 2);
        _tile_loadd(6, weight, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (tall == 2 && wide == 1) _tile_dpbf16ps(1, 5, 6);
        if (tall == 2 && wide == 2) _tile_dpbf16ps(2, 5, 6);
        if (wide > 1) {
            _tile_loadd(7, weight + SIDE * DEPTH, 64);
            _tile_dpbf16ps(1, 4, 7);
            if (tall == 2) _tile_dpbf16ps(3, 5, 7);
        }
        if (wide > 2) {
            _tile_loadd(6, weight + 2 * SIDE * DEPTH, 64);
            _tile_dpbf16ps(2, 4, 6);
        }
        if (wide > 3) {
            _tile_loadd(7, weight + 3 * SIDE * DEPTH, 64);
            _tile_dpbf16ps(3, 4, 7);
        }
    }
    const int64_t ld = wide * SIDE;
    _tile_stored(0, sums, ld * 4);
    if (wide > 1) _tile_stored(1, sums + SIDE, ld * 4);
    if (wide > 2) _tile_stored(2, sums + 2 * SIDE, ld * 4);
    if (wide > 3) _tile_stored(3, sums + 3 * SIDE, ld * 4);
    if (tall == 2 && wide == 1) _tile_stored(1, sums + SIDE * ld, ld * 4);
    if (tall == 2 && wide == 2) _tile_stored(2, sums + SIDE * ld, ld * 4);
    if (tall == 2 && wide == 2) _tile_stored(3, sums + SIDE * ld + SIDE, ld * 4);
}

/* Where the sums of some packed rows belong. */
typedef struct {
    const int32_t *out; /* rows of the result; NULL: consecutive ones from row0 of the tile */
    int64_t row0, ld;   /* the tile's first row; its rows are ld apart */
    float *tile;        /* from the panel's first column */
} target;

INLINE void scatter(const int wide, const float *sums, int m, const target t)
{
    for (int r = 0; r < m; r++) {
        float *to = t.tile + (t.out ? t.out[r] - t.row0 : t.row0 + r) * t.ld;
        for (int c = 0; c < wide; c++) {
            __m512 sum = _mm512_loadu_ps(sums + (r * wide + c) * SIDE);
            _mm512_storeu_ps(to + c * SIDE, _mm512_add_ps(sum, _mm512_loadu_ps(to + c * SIDE)));
        }
    }
}

static inline const void *row_of(const lk_conv *job, int64_t size, const int32_t *rows,
                                 int64_t row0, int64_t r)
{
    return (const char *)job->x + (rows ? rows[r] : row0 + r) * job->ldx * size;
}

static void copy_rows(const lk_conv *job, const int32_t *rows, int64_t row0, int m, bf16 *to,
                      int64_t ld)
{
    for (int r = 0; r < m; r++) {
        const bf16 *from = row_of(job, sizeof(bf16), rows, row0, r);
        int64_t c = 0;
        for (; c + DEPTH <= job->cin; c += DEPTH)
            _mm512_store_si512(to + r * ld + c, _mm512_loadu_si512(from + c));
        if (c < job->cin) {
            __mmask32 rest = (__mmask32)((1ULL << (job->cin - c)) - 1);
            _mm512_store_si512(to + r * ld + c, _mm512_maskz_loadu_epi16(rest, from + c));
        }
    }
}

/* Each row as high, low, high: against weights high, high, low this sums the three products. */
static void split_rows(const lk_conv *job, const int32_t *rows, int64_t row0, int m, bf16 *to,
                       int64_t ld)
{
    const int64_t part = ld / 3;
    for (int r = 0; r < m; r++) {
        const float *from = row_of(job, sizeof(float), rows, row0, r);
        for (int64_t c = 0; c < job->cin; c += SIDE) {
            const int64_t left = lk_min(SIDE, job->cin - c);
            __m256i high, low;
            split(_mm512_maskz_loadu_ps((__mmask16)((1U << left) - 1), from + c), &high, &low);
            bf16 *at = to + r * ld + c;
            _mm256_store_si256((__m256i *)at, high);
            _mm256_store_si256((__m256i *)(at + part), low);
            _mm256_store_si256((__m256i *)(at + 2 * part), high);
        }
    }
}

typedef struct {
    const lk_conv *job;
    int parts;           /* 1: bfloat16, 3: float32 as high and low */
    int64_t depth, wide; /* all parts of cin, and cout, in whole matrix tiles: values, tiles */
    float *tile;         /* (rows, wide * 16) */
    bf16 *rows;          /* (32, depth) */
    float *sums;         /* (32, 64) */
} scratch;

/* One panel of `wide` matrix tiles for m packed rows. */
INLINE void panel_of(const int wide, const scratch *s, const bf16 *weight, int m, target t)
{
    if (wide <= 2 && m > SIDE) multiply(2, wide, s->rows, s->depth, weight, s->sums);
    else multiply(1, wide, s->rows, s->depth, weight, s->sums);
    scatter(wide, s->sums, m < SIDE || wide <= 2 ? m : SIDE, t);
    if (wide > 2 && m > SIDE) {
        multiply(1, wide, s->rows + SIDE * s->depth, s->depth, weight, s->sums);
        if (t.out) t.out += SIDE;
        else t.row0 += SIDE;
        scatter(wide, s->sums, m - SIDE, t);
    }
}

static void prefetch(const scratch *s, const int32_t *in, int64_t first, int64_t last)
{
    const int64_t size = s->parts == 1 ? sizeof(bf16) : sizeof(float);
    for (int64_t q = first; q < last; q++) {
        const char *row = row_of(s->job, size, in, 0, q);
        for (int64_t at = 0; at < s->job->cin * size; at += 64) __builtin_prefetch(row + at);
    }
}

/* A slot's pairs in one tile, whose first row is row0. */
typedef struct {
    const bf16 *weight;
    const int32_t *in, *out; /* NULL: every row to itself */
    int64_t first, last, row0;
} slot_part;

static void slot_of(const scratch *s, const slot_part *part)
{
    const int32_t *in = part->in, *out = part->out;
    const int64_t last = part->last, row0 = part->row0;
    for (int64_t p = part->first; p < last; p += 2 * SIDE) {
        const int m = (int)lk_min(2 * SIDE, last - p);
        (s->parts == 1 ? copy_rows : split_rows)(s->job, in ? in + p : NULL, row0 + p, m, s->rows,
                                                 s->depth);
        if (in) prefetch(s, in, p + 2 * SIDE, lk_min(p + 4 * SIDE, last));
        target to = {out ? out + p : NULL, out ? row0 : p, s->wide * SIDE, s->tile};
        const bf16 *w = part->weight;
        for (int64_t t = 0, panel = 0; t < s->wide; panel++) {
            const int64_t width = panel_width(s->wide, panel);
            switch (width) {
            case 1: panel_of(1, s, w, m, to); break;
            case 2: panel_of(2, s, w, m, to); break;
            case 3: panel_of(3, s, w, m, to); break;
            case 4: panel_of(4, s, w, m, to); break;
            }
            w += s->depth * width * SIDE;
            to.tile += width * SIDE;
            t += width;
        }
    }
}

static void tile_of(const lk_map *map, const scratch *s, int64_t block0, int64_t block1)
{
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), slot_size = s->depth * s->wide * SIDE;
    const int64_t row0 = block0 * LK_BLOCK, rows = lk_min(map->rows, block1 * LK_BLOCK) - row0;
    memset(s->tile, 0, rows * s->wide * SIDE * sizeof(float));
    for (int64_t k = 0; k < map->slots; k++) {
        const int32_t *cuts = map->cuts + k * (blocks + 1);
        slot_part part = {(const bf16 *)s->job->weight + k * slot_size, NULL, NULL, 0, rows, row0};
        if (map->in) {
            part.in = map->in + map->starts[k], part.out = map->out + map->starts[k];
            part.first = cuts[block0], part.last = cuts[block1];
        }
        slot_of(s, &part);
    }
    const lk_tile all = {s->tile, s->wide * SIDE, row0, rows, 0, s->job->cout};
    if (s->parts == 1) finish_parts(1, s->job, all);
    else finish_parts(3, s->job, all);
}

static int conv_in(const lk_map *map, const lk_conv *job, int parts)
{
    int status = LK_DONE;
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), depth = parts * whole(job->cin, DEPTH);
    const int64_t wide = lk_ceil(job->cout, SIDE);
    const int64_t size = map->slots * depth * wide * SIDE;
    const int64_t blocks_wide = lk_tile_blocks(blocks, size, job->threads);
    const int64_t tiles = lk_ceil(blocks, blocks_wide);
#pragma omp parallel num_threads(job->threads)
    {
        scratch s = {.job = job, .parts = parts, .depth = depth, .wide = wide};
        const int64_t tile = blocks_wide * LK_BLOCK * wide * SIDE, sums = 2 * SIDE * MOST * SIDE;
        s.tile = lk_scratch((tile + sums) * sizeof(float) + 2 * SIDE * depth * sizeof(bf16));
        s.sums = s.tile + tile;
        s.rows = (bf16 *)(s.sums + sums);
        if (s.tile) memset(s.rows, 0, 2 * SIDE * depth * sizeof(bf16));
        configure();
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tiles; t++) {
            if (!s.tile) {
#pragma omp atomic write
                status = LK_NO_MEMORY;
                continue;
            }
            tile_of(map, &s, t * blocks_wide, lk_min(blocks, (t + 1) * blocks_wide));
        }
        _tile_release();
    }
    return status;
}

static int conv(const lk_map *map, const lk_conv *job) { return conv_in(map, job, 1); }
static int conv_split(const lk_map *map, const lk_conv *job) { return conv_in(map, job, 3); }

const lk_engine lk_engine_amx = {
    .conv = conv, .packed = lk_amx_packed, .pack = lk_amx_pack};
const lk_engine lk_engine_split = {
    .conv = conv_split, .packed = lk_split_packed, .pack = lk_split_pack};

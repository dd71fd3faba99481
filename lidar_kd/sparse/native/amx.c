/* SPDX-License-Identifier: Apache-2.0
 *
 * Sparse convolution for inference in bfloat16 on the AMX matrix units of x86 CPUs: bfloat16 in
 * and out, sums in float32. The pairs of a slot are packed sixteen rows at a time (a matrix tile
 * needs rows at one stride), multiplied, and added to the tile of result rows in the cache.
 */
#include "kernels.h"

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIDE 16  /* rows and columns of a matrix tile of float32 */
#define DEPTH 32 /* bfloat16 values in a row of a matrix tile */
#define MOST 4   /* sums held in matrix tiles at a time */
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

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

INLINE void scatter(const int wide, const float *sums, const int32_t *out, int64_t row0, int m,
                    float *tile, int64_t ld)
{
    for (int r = 0; r < m; r++) {
        float *to = tile + (out ? out[r] - row0 : row0 + r) * ld;
        for (int c = 0; c < wide; c++) {
            __m512 sum = _mm512_loadu_ps(sums + (r * wide + c) * SIDE);
            _mm512_storeu_ps(to + c * SIDE, _mm512_add_ps(sum, _mm512_loadu_ps(to + c * SIDE)));
        }
    }
}

static void copy_rows(const bf16 *x, int64_t ldx, int64_t channels, const int32_t *rows,
                      int64_t row0, int m, bf16 *to, int64_t ld)
{
    for (int r = 0; r < m; r++) {
        const bf16 *from = x + (rows ? rows[r] : row0 + r) * ldx;
        int64_t c = 0;
        for (; c + DEPTH <= channels; c += DEPTH)
            _mm512_store_si512(to + r * ld + c, _mm512_loadu_si512(from + c));
        if (c < channels) {
            __mmask32 rest = (__mmask32)((1ULL << (channels - c)) - 1);
            _mm512_store_si512(to + r * ld + c, _mm512_maskz_loadu_epi16(rest, from + c));
        }
    }
}

typedef struct {
    const lk_conv *job;
    int64_t depth, wide; /* cin and cout in whole matrix tiles: values, tiles */
    float *tile;         /* (rows, wide * 16) */
    bf16 *rows;          /* (32, depth) */
    float *sums;         /* (32, 64) */
} scratch;

/* One panel of `wide` matrix tiles for m packed rows. */
INLINE void panel_of(const int wide, const scratch *s, const bf16 *weight, const int32_t *out,
                     int64_t row0, int m, int64_t column)
{
    const int64_t ld = s->wide * SIDE;
    if (wide <= 2 && m > SIDE) multiply(2, wide, s->rows, s->depth, weight, s->sums);
    else multiply(1, wide, s->rows, s->depth, weight, s->sums);
    scatter(wide, s->sums, out, row0, m < SIDE || wide <= 2 ? m : SIDE, s->tile + column, ld);
    if (wide > 2 && m > SIDE) {
        multiply(1, wide, s->rows + SIDE * s->depth, s->depth, weight, s->sums);
        scatter(wide, s->sums, out ? out + SIDE : NULL, out ? row0 : row0 + SIDE, m - SIDE,
                s->tile + column, ld);
    }
}

/* The panels of a result `wide` matrix tiles across are nearly equal and at most MOST wide. */
static int64_t panel_width(int64_t wide, int64_t p)
{
    const int64_t count = lk_ceil(wide, MOST);
    return wide / count + (p < wide % count);
}

static void slot_of(const scratch *s, const bf16 *weight, const int32_t *in, const int32_t *out,
                    int64_t first, int64_t last, int64_t row0)
{
    for (int64_t p = first; p < last; p += 2 * SIDE) {
        const int m = (int)lk_min(2 * SIDE, last - p);
        copy_rows(s->job->x, s->job->ldx, s->job->cin, in ? in + p : NULL, row0 + p, m, s->rows,
                  s->depth);
        if (in)
            for (int64_t q = p + 2 * SIDE; q < lk_min(p + 4 * SIDE, last); q++)
                for (int64_t c = 0; c < s->job->cin; c += DEPTH)
                    __builtin_prefetch((const bf16 *)s->job->x + in[q] * s->job->ldx + c);
        const int32_t *to = out ? out + p : NULL;
        const int64_t base = out ? row0 : p;
        const bf16 *w = weight;
        for (int64_t t = 0, panel = 0; t < s->wide; panel++) {
            const int64_t width = panel_width(s->wide, panel);
            switch (width) {
            case 1: panel_of(1, s, w, to, base, m, t * SIDE); break;
            case 2: panel_of(2, s, w, to, base, m, t * SIDE); break;
            case 3: panel_of(3, s, w, to, base, m, t * SIDE); break;
            case 4: panel_of(4, s, w, to, base, m, t * SIDE); break;
            }
            w += s->depth * width * SIDE;
            t += width;
        }
    }
}

/* y = relu?(tile + bias? + residual?), rounded to bfloat16. */
static void finish(const scratch *s, int64_t row0, int64_t rows)
{
    const lk_conv *job = s->job;
    const int64_t ld = s->wide * SIDE;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < job->cout; c += SIDE) {
            const __mmask16 some = (__mmask16)((1U << lk_min(SIDE, job->cout - c)) - 1);
            __m512 sum = _mm512_loadu_ps(s->tile + r * ld + c);
            if (job->bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some, job->bias + c));
            if (job->residual) {
                const bf16 *extra = (const bf16 *)job->residual + (row0 + r) * job->ldr + c;
                __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, extra));
                sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
            }
            /* keeps a NaN: max returns its second operand when either is one */
            if (job->relu) sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
            bf16 *to = (bf16 *)job->y + (row0 + r) * job->ldy + c;
            _mm256_mask_storeu_epi16(to, some, (__m256i)_mm512_cvtneps_pbh(sum));
        }
}

static void tile_of(const lk_map *map, const scratch *s, int64_t block0, int64_t block1)
{
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), slot_size = s->depth * s->wide * SIDE;
    const int64_t row0 = block0 * LK_BLOCK, rows = lk_min(map->rows, block1 * LK_BLOCK) - row0;
    memset(s->tile, 0, rows * s->wide * SIDE * sizeof(float));
    for (int64_t k = 0; k < map->slots; k++) {
        const int32_t *cuts = map->cuts + k * (blocks + 1);
        const bf16 *weight = (const bf16 *)s->job->weight + k * slot_size;
        if (map->in)
            slot_of(s, weight, map->in + map->starts[k], map->out + map->starts[k], cuts[block0],
                    cuts[block1], row0);
        else slot_of(s, weight, NULL, NULL, 0, rows, row0);
    }
    finish(s, row0, rows);
}

static int64_t whole(int64_t a, int64_t unit) { return lk_ceil(a, unit) * unit; }

static void conv(const lk_map *map, const lk_conv *job)
{
    const int64_t blocks = lk_ceil(map->rows, LK_BLOCK), depth = whole(job->cin, DEPTH);
    const int64_t wide = lk_ceil(job->cout, SIDE);
    const int64_t blocks_wide = lk_tile_blocks(blocks, map->slots * depth * wide * SIDE, job->threads);
    const int64_t tiles = lk_ceil(blocks, blocks_wide);
#pragma omp parallel num_threads(job->threads)
    {
        scratch s = {.job = job, .depth = depth, .wide = wide};
        s.tile = aligned_alloc(64, blocks_wide * LK_BLOCK * wide * SIDE * sizeof(float));
        s.rows = aligned_alloc(64, 2 * SIDE * depth * sizeof(bf16));
        s.sums = aligned_alloc(64, 2 * SIDE * MOST * SIDE * sizeof(float));
        memset(s.rows, 0, 2 * SIDE * depth * sizeof(bf16));
        configure();
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tiles; t++)
            tile_of(map, &s, t * blocks_wide, lk_min(blocks, (t + 1) * blocks_wide));
        _tile_release();
        free(s.tile);
        free(s.rows);
        free(s.sums);
    }
}

static int64_t packed(int64_t slots, int64_t cin, int64_t cout)
{
    return slots * whole(cin, DEPTH) * whole(cout, SIDE);
}

static bf16 rounded(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bf16)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* (cout, slots, cin) to slot, panel, chunk of depth, matrix tile, channel pair, column, channel. */
static void pack(const float *weight, int64_t slots, int64_t cin, int64_t cout, int transpose,
                 int threads, void *packed)
{
    (void)transpose; /* inference only */
    const int64_t depth = whole(cin, DEPTH), wide = lk_ceil(cout, SIDE);
    memset(packed, 0, slots * depth * wide * SIDE * sizeof(bf16));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < slots; k++) {
        bf16 *panel = (bf16 *)packed + k * depth * wide * SIDE;
        for (int64_t t = 0, p = 0; t < wide; p++) {
            const int64_t width = panel_width(wide, p);
            for (int64_t o = t * SIDE; o < lk_min(cout, (t + width) * SIDE); o++)
                for (int64_t c = 0; c < cin; c++) {
                    int64_t tile = c / DEPTH * width + (o / SIDE - t);
                    int64_t at = (tile * SIDE + c % DEPTH / 2) * DEPTH + o % SIDE * 2 + c % 2;
                    panel[at] = rounded(weight[(o * slots + k) * cin + c]);
                }
            panel += depth * width * SIDE;
            t += width;
        }
    }
}

const lk_engine lk_engine_amx = {conv, packed, pack, NULL};

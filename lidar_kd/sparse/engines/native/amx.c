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
#include "bfloat16.h"
#include "kernels.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIDE 16  /* rows and columns of a matrix tile of float32 */
#define DEPTH 32 /* bfloat16 values in a row of a matrix tile */
#define MOST 4   /* sums held in matrix tiles at a time */
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

/* high and low parts of sixteen numbers */
static inline void split(__m512 x, __m256i *high, __m256i *low)
{
    *high = narrow(x);
    *low = narrow(_mm512_sub_ps(x, widened(*high)));
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

static void prefetch(const scratch *s, const int32_t *in, int64_t first, int64_t last)
{
    const int64_t size = s->parts == 1 ? sizeof(bf16) : sizeof(float);
    for (int64_t q = first; q < last; q++) {
        const char *row = row_of(s->job, size, in, 0, q);
        for (int64_t at = 0; at < s->job->cin * size; at += 64) __builtin_prefetch(row + at);
    }
}

static void slot_of(const scratch *s, const bf16 *weight, const int32_t *in, const int32_t *out,
                    int64_t first, int64_t last, int64_t row0)
{
    for (int64_t p = first; p < last; p += 2 * SIDE) {
        const int m = (int)lk_min(2 * SIDE, last - p);
        (s->parts == 1 ? copy_rows : split_rows)(s->job, in ? in + p : NULL, row0 + p, m, s->rows,
                                                 s->depth);
        if (in) prefetch(s, in, p + 2 * SIDE, lk_min(p + 4 * SIDE, last));
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
    const int64_t ld = s->wide * SIDE, columns = s->job->cout;
    if (s->parts == 1) finish_parts(1, s->job, s->tile, ld, row0, rows, 0, columns);
    else finish_parts(3, s->job, s->tile, ld, row0, rows, 0, columns);
}

static int64_t whole(int64_t a, int64_t unit) { return lk_ceil(a, unit) * unit; }

static void conv_in(const lk_map *map, const lk_conv *job, int parts)
{
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
        memset(s.rows, 0, 2 * SIDE * depth * sizeof(bf16));
        configure();
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tiles; t++)
            tile_of(map, &s, t * blocks_wide, lk_min(blocks, (t + 1) * blocks_wide));
        _tile_release();
    }
}

static void conv(const lk_map *map, const lk_conv *job) { conv_in(map, job, 1); }
static void conv_split(const lk_map *map, const lk_conv *job) { conv_in(map, job, 3); }

static int64_t packed(int64_t slots, int64_t cin, int64_t cout)
{
    return slots * whole(cin, DEPTH) * whole(cout, SIDE);
}

static int64_t packed_split(int64_t slots, int64_t cin, int64_t cout)
{
    return 3 * packed(slots, cin, cout);
}

/* One slot's weights as numbered below, from `at` with these steps between rows and columns. */
typedef struct {
    const float *at;
    int64_t rows, columns, row_step, column_step;
} matrix;

/* Sixteen values of the matrix from (row, column) along its columns, zeros beyond the edges. */
static inline __m512 sixteen(const matrix *w, int64_t row, int64_t column)
{
    if (row >= w->rows) return _mm512_setzero_ps();
    const __mmask16 some = (__mmask16)((1ULL << lk_min(SIDE, w->columns - column)) - 1);
    const float *from = w->at + row * w->row_step + column * w->column_step;
    if (w->column_step == 1) return _mm512_maskz_loadu_ps(some, from);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i step = _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)w->column_step));
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), some, step, from, 4);
}

/* Two rows of sixteen columns side by side: a line of a matrix tile. */
static inline __m512i paired(__m256i even, __m256i odd)
{
    const __m512i low = _mm512_cvtepu16_epi32(even), high = _mm512_cvtepu16_epi32(odd);
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* One slot: panel, part, chunk of depth, matrix tile, channel pair, column, channel of the pair;
 * of three parts the first two are the high parts of the weights, the last the low ones. */
static void pack_slot(const matrix *w, int parts, bf16 *to)
{
    const int64_t part = whole(w->rows, DEPTH), wide = lk_ceil(w->columns, SIDE);
    for (int64_t t = 0, p = 0; t < wide; p++) {
        const int64_t width = panel_width(wide, p), size = part * width * SIDE;
        for (int64_t r = 0; r < part; r += 2)
            for (int64_t o = 0; o < width; o++) {
                __m256i high[2], low[2];
                for (int i = 0; i < 2; i++)
                    split(sixteen(w, r + i, (t + o) * SIDE), high + i, low + i);
                const int64_t at = ((r / DEPTH * width + o) * SIDE + r % DEPTH / 2) * DEPTH;
                _mm512_storeu_si512(to + at, paired(high[0], high[1]));
                if (parts == 1) continue;
                _mm512_storeu_si512(to + size + at, paired(high[0], high[1]));
                _mm512_storeu_si512(to + 2 * size + at, paired(low[0], low[1]));
            }
        to += parts * size;
        t += width;
    }
}

/* weight is (cout, slots, cin); the packed rows are cin, or cout when transposed. */
static void pack_in(const float *weight, int64_t slots, int64_t cin, int64_t cout, int transpose,
                    int threads, int parts, bf16 *to)
{
    const int64_t size = parts * packed(1, transpose ? cout : cin, transpose ? cin : cout);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t k = 0; k < slots; k++) {
        const matrix forward = {weight + k * cin, cin, cout, 1, slots * cin};
        const matrix backward = {weight + k * cin, cout, cin, slots * cin, 1};
        pack_slot(transpose ? &backward : &forward, parts, to + k * size);
    }
}

static void pack(const float *weight, int64_t slots, int64_t cin, int64_t cout, int transpose,
                 int threads, void *to)
{
    pack_in(weight, slots, cin, cout, transpose, threads, 1, to);
}

static void pack_split(const float *weight, int64_t slots, int64_t cin, int64_t cout, int transpose,
                       int threads, void *to)
{
    pack_in(weight, slots, cin, cout, transpose, threads, 3, to);
}

const lk_engine lk_engine_amx = {conv, packed, pack};
const lk_engine lk_engine_split = {conv_split, packed_split, pack_split};

/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights as the AMX engines multiply them, in bfloat16 or in its high and low parts.
 */
#include "amx.h"

int64_t lk_amx_packed(int64_t slots, int64_t cin, int64_t cout)
{
    return slots * whole(cin, DEPTH) * whole(cout, SIDE);
}

int64_t lk_split_packed(int64_t slots, int64_t cin, int64_t cout)
{
    return 3 * lk_amx_packed(slots, cin, cout);
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

static void pack_in(const lk_packing *job, int parts)
{
    const int64_t cin = job->cin, cout = job->cout, step = job->slots * cin;
    const int64_t rows = job->transpose ? cout : cin, columns = job->transpose ? cin : cout;
    const int64_t size = parts * lk_amx_packed(1, rows, columns);
#pragma omp parallel for schedule(dynamic, 1) num_threads(job->threads)
    for (int64_t k = 0; k < job->slots; k++) {
        const matrix forward = {job->weight + k * cin, cin, cout, 1, step};
        const matrix backward = {job->weight + k * cin, cout, cin, step, 1};
        pack_slot(job->transpose ? &backward : &forward, parts, (bf16 *)job->packed + k * size);
    }
}

void lk_amx_pack(const lk_packing *job) { pack_in(job, 1); }
void lk_split_pack(const lk_packing *job) { pack_in(job, 3); }

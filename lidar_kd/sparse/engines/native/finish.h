/* SPDX-License-Identifier: Apache-2.0
 *
 * The last step of a convolution in float32, a part of conv.c; bfloat16.h has the other. One pass,
 * for in narrow layers a pass over the tile takes a tenth of the time of the products.
 */

/* y = relu?(tile + bias? + residual?) for `vectors` whole vectors of each row. */
INLINE void finish_vectors(const int vectors, const int adds, const int relu, const lk_conv *job,
                           const float *tile, int64_t ld, int64_t row0, int64_t rows,
                           int64_t column)
{
    vec bias[MAX_VECTORS];
    for (int v = 0; v < vectors; v++)
        bias[v] = job->bias ? load(job->bias + column + v * LANES) : (vec){0};
    for (int64_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const int64_t c = column + v * LANES;
            vec sum = load(tile + r * ld + v * LANES) + bias[v];
            if (adds) sum += load((const float *)job->residual + (row0 + r) * job->ldr + c);
            store((float *)job->y + (row0 + r) * job->ldy + c, relu ? not_negative(sum) : sum);
        }
}

INLINE void finish_panel(const int vectors, const lk_conv *job, const float *tile, int64_t ld,
                         int64_t row0, int64_t rows, int64_t column)
{
    if (job->residual && job->relu)
        finish_vectors(vectors, 1, 1, job, tile, ld, row0, rows, column);
    else if (job->residual) finish_vectors(vectors, 1, 0, job, tile, ld, row0, rows, column);
    else if (job->relu) finish_vectors(vectors, 0, 1, job, tile, ld, row0, rows, column);
    else finish_vectors(vectors, 0, 0, job, tile, ld, row0, rows, column);
}

/* The same for the column that is left of a vector. */
static void finish_column(const lk_conv *job, const float *tile, int64_t ld, int64_t row0,
                          int64_t rows, int64_t column)
{
    const float bias = job->bias ? job->bias[column] : 0, *residual = job->residual;
    for (int64_t r = 0; r < rows; r++) {
        float sum = tile[r * ld] + bias;
        if (residual) sum += residual[(row0 + r) * job->ldr + column];
        ((float *)job->y)[(row0 + r) * job->ldy + column] = job->relu && sum < 0 ? 0 : sum;
    }
}

/* For the columns of one panel. */
static void finish(const lk_conv *job, const float *tile, int64_t ld, int64_t row0, int64_t rows,
                   int64_t column, int64_t columns)
{
    switch (columns / LANES) {
    case 1: finish_panel(1, job, tile, ld, row0, rows, column); break;
    case 2: finish_panel(2, job, tile, ld, row0, rows, column); break;
#if MAX_VECTORS > 2
    case 3: finish_panel(3, job, tile, ld, row0, rows, column); break;
#endif
#if MAX_VECTORS > 3
    case 4: finish_panel(4, job, tile, ld, row0, rows, column); break;
#endif
    }
    for (int64_t c = columns / LANES * LANES; c < columns; c++)
        finish_column(job, tile + c, ld, row0, rows, column + c);
}

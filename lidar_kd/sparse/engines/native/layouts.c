/* SPDX-License-Identifier: Apache-2.0
 *
 * The size of every structure that Python fills in, followed by where its fields lie, in the order
 * of structs.py, which compares them when the library is loaded.
 */
#include "kernels.h"

#define AT(type, field) offsetof(type, field)

LK_EXPORT const int64_t lk_layouts[] = {
    sizeof(lk_map), AT(lk_map, in), AT(lk_map, out), AT(lk_map, starts), AT(lk_map, cuts),
    AT(lk_map, slots), AT(lk_map, rows),
    sizeof(lk_conv), AT(lk_conv, x), AT(lk_conv, y), AT(lk_conv, weight), AT(lk_conv, bias),
    AT(lk_conv, residual), AT(lk_conv, ldx), AT(lk_conv, ldy), AT(lk_conv, ldr), AT(lk_conv, cin),
    AT(lk_conv, cout), AT(lk_conv, relu), AT(lk_conv, threads),
    sizeof(lk_packing), AT(lk_packing, weight), AT(lk_packing, packed), AT(lk_packing, slots),
    AT(lk_packing, cin), AT(lk_packing, cout), AT(lk_packing, transpose), AT(lk_packing, threads),
    sizeof(lk_gradient), AT(lk_gradient, x), AT(lk_gradient, dy), AT(lk_gradient, dw),
    AT(lk_gradient, ldx), AT(lk_gradient, ldy), AT(lk_gradient, cin), AT(lk_gradient, cout),
    AT(lk_gradient, threads),
    sizeof(lk_attention), AT(lk_attention, qkv), AT(lk_attention, dy), AT(lk_attention, y),
    AT(lk_attention, dqkv), AT(lk_attention, patches), AT(lk_attention, size),
    AT(lk_attention, heads), AT(lk_attention, width), AT(lk_attention, scale),
    AT(lk_attention, threads),
    sizeof(lk_norm), AT(lk_norm, x), AT(lk_norm, residual), AT(lk_norm, y), AT(lk_norm, dy),
    AT(lk_norm, weight), AT(lk_norm, bias), AT(lk_norm, mean), AT(lk_norm, inverse),
    AT(lk_norm, out), AT(lk_norm, dx), AT(lk_norm, dresidual), AT(lk_norm, dweight),
    AT(lk_norm, dbias), AT(lk_norm, rows), AT(lk_norm, channels), AT(lk_norm, relu),
    AT(lk_norm, threads),
    sizeof(lk_groups), AT(lk_groups, values), AT(lk_groups, order), AT(lk_groups, first),
    AT(lk_groups, means), AT(lk_groups, rows), AT(lk_groups, ordered), AT(lk_groups, groups),
    AT(lk_groups, columns), AT(lk_groups, threads),
    sizeof(lk_row_answers), AT(lk_row_answers, logits), AT(lk_row_answers, label),
    AT(lk_row_answers, probability), AT(lk_row_answers, entropy), AT(lk_row_answers, rows),
    AT(lk_row_answers, classes), AT(lk_row_answers, threads),
    sizeof(lk_striding), AT(lk_striding, coords), AT(lk_striding, stride),
    AT(lk_striding, coarse), AT(lk_striding, in), AT(lk_striding, out), AT(lk_striding, starts),
    AT(lk_striding, rows),
};

LK_EXPORT int64_t lk_layout_count(void) { return sizeof(lk_layouts) / sizeof(lk_layouts[0]); }

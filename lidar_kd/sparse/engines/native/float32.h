/* SPDX-License-Identifier: Apache-2.0
 *
 * What the float32 engines have beside the convolution. Each of these files is compiled once per
 * instruction set (-DISA=avx512, avx2, portable), and the set is part of its function's name.
 */
#ifndef LIDAR_KD_FLOAT32_H
#define LIDAR_KD_FLOAT32_H

#include "kernels.h"

#define FOR_ISA(name) LK_JOIN(lk_##name, ISA)

/* gradient.c */
int FOR_ISA(grad_weight)(const lk_map *map, const lk_gradient *job);
/* attention.c */
int FOR_ISA(attend)(const lk_attention *job);
/* gelu.c */
void FOR_ISA(gelu)(const float *x, const float *dy, int64_t count, int threads, float *to);

#endif

# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution with one set of weights and several engines."""

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.layers import (
    chain,
    Conv,
    ConvNorm,
    convolve,
    fold_norms,
    InverseConv,
    Norm,
    PointwiseConv,
    StridedConv,
    SubmanifoldConv,
)
from lidar_kd.sparse.select import select_engine
from lidar_kd.sparse.tensor import batch_sizes, Level, sparse_tensor, SparseTensor

__all__ = [
    'Conv',
    'ConvNorm',
    'Engine',
    'InverseConv',
    'KernelMap',
    'Level',
    'Norm',
    'PointwiseConv',
    'SparseTensor',
    'StridedConv',
    'SubmanifoldConv',
    'batch_sizes',
    'chain',
    'convolve',
    'fold_norms',
    'select_engine',
    'sparse_tensor',
]

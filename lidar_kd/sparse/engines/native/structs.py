# SPDX-License-Identifier: Apache-2.0
"""The structures of kernels.h as ctypes has them, and what their layout must be in C."""

from __future__ import annotations

import ctypes

Pointer = ctypes.c_void_p
Float = ctypes.c_float
Int64, Int32 = ctypes.c_int64, ctypes.c_int32


class MapView(ctypes.Structure):
    """lk_map of kernels.h."""

    _fields_ = [
        ('in_rows', Pointer),
        ('out_rows', Pointer),
        ('starts', Pointer),
        ('cuts', Pointer),
        ('slots', Int64),
        ('rows', Int64),
    ]


class ConvJob(ctypes.Structure):
    """lk_conv of kernels.h."""

    _fields_ = [
        ('x', Pointer),
        ('y', Pointer),
        ('weight', Pointer),
        ('bias', Pointer),
        ('residual', Pointer),
        ('ldx', Int64),
        ('ldy', Int64),
        ('ldr', Int64),
        ('cin', Int32),
        ('cout', Int32),
        ('relu', Int32),
        ('threads', Int32),
    ]


class PackingJob(ctypes.Structure):
    """lk_packing of kernels.h."""

    _fields_ = [
        ('weight', Pointer),
        ('packed', Pointer),
        ('slots', Int64),
        ('cin', Int64),
        ('cout', Int64),
        ('transpose', Int32),
        ('threads', Int32),
    ]


class GradientJob(ctypes.Structure):
    """lk_gradient of kernels.h."""

    _fields_ = [
        ('x', Pointer),
        ('dy', Pointer),
        ('dw', Pointer),
        ('ldx', Int64),
        ('ldy', Int64),
        ('cin', Int64),
        ('cout', Int64),
        ('threads', Int32),
    ]


class AttentionJob(ctypes.Structure):
    """lk_attention of kernels.h."""

    _fields_ = [
        ('qkv', Pointer),
        ('dy', Pointer),
        ('y', Pointer),
        ('dqkv', Pointer),
        ('patches', Int64),
        ('size', Int64),
        ('heads', Int64),
        ('width', Int64),
        ('scale', Float),
        ('threads', Int32),
    ]


class NormJob(ctypes.Structure):
    """lk_norm of kernels.h."""

    _fields_ = [
        ('x', Pointer),
        ('residual', Pointer),
        ('y', Pointer),
        ('dy', Pointer),
        ('weight', Pointer),
        ('bias', Pointer),
        ('mean', Pointer),
        ('inverse', Pointer),
        ('out', Pointer),
        ('dx', Pointer),
        ('dresidual', Pointer),
        ('dweight', Pointer),
        ('dbias', Pointer),
        ('rows', Int64),
        ('channels', Int64),
        ('relu', Int32),
        ('threads', Int32),
    ]


class GroupsJob(ctypes.Structure):
    """lk_groups of kernels.h."""

    _fields_ = [
        ('values', Pointer),
        ('order', Pointer),
        ('first', Pointer),
        ('means', Pointer),
        ('rows', Int64),
        ('ordered', Int64),
        ('groups', Int64),
        ('columns', Int64),
        ('threads', Int32),
    ]


class AnswersJob(ctypes.Structure):
    """lk_row_answers of kernels.h."""

    _fields_ = [
        ('logits', Pointer),
        ('label', Pointer),
        ('probability', Pointer),
        ('entropy', Pointer),
        ('rows', Int64),
        ('classes', Int64),
        ('threads', Int32),
    ]


class StridingJob(ctypes.Structure):
    """lk_striding of kernels.h."""

    _fields_ = [
        ('coords', Pointer),
        ('stride', Pointer),
        ('coarse', Pointer),
        ('in_rows', Pointer),
        ('out_rows', Pointer),
        ('starts', Pointer),
        ('rows', Int64),
    ]


STRUCTURES = (
    MapView,
    ConvJob,
    PackingJob,
    GradientJob,
    AttentionJob,
    NormJob,
    GroupsJob,
    AnswersJob,
    StridingJob,
)


def expected_layouts() -> list[int]:
    """The size of each structure and the offsets of its fields, as layouts.c writes them down."""
    numbers: list[int] = []
    for structure in STRUCTURES:
        fields = (getattr(structure, field[0]).offset for field in structure._fields_)
        numbers += [ctypes.sizeof(structure), *fields]
    return numbers


def layouts_differ(library: ctypes.CDLL) -> bool:
    """Whether C would read a structure otherwise than Python writes it."""
    library.lk_layout_count.restype = Int64
    count = library.lk_layout_count()
    return list((Int64 * count).in_dll(library, 'lk_layouts')) != expected_layouts()

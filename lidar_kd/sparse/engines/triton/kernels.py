# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels. Names in capitals are fixed when a kernel is compiled.

A tile is ROWS rows of the result, visited in an order that puts rows with the same neighbours
side by side (plan.py), by COLUMNS channels. Sums are in float32 and always in the same order.
UPCAST is for Triton's interpreter, whose product of bfloat16 is wrong. Triton would compile a
kernel anew where a number of rows is a multiple of 16, in the middle of a drive: not so of COUNTS.
"""

from __future__ import annotations

import triton
import triton.language as tl

COUNTS = 'n_out', 'n_in', 'n_slots', 'stride', 'rows', 'c_in', 'c_out'  # one kernel for any


@triton.jit
def multiply_add(
    a: tl.tensor, b: tl.tensor, total: tl.tensor, PRECISION: tl.constexpr, UPCAST: tl.constexpr
) -> tl.tensor:
    """total + a b"""
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision='ieee')
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit(do_not_specialize=COUNTS)
def convolve_tiles(
    x: tl.tensor, weight: tl.tensor, table: tl.tensor, order: tl.tensor, slots: tl.tensor,
    counts: tl.tensor, bias: tl.tensor, residual: tl.tensor, y: tl.tensor, n_out: tl.tensor,
    padded: tl.tensor, n_slots: tl.tensor, C_IN: tl.constexpr, C_OUT: tl.constexpr,
    X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, Y_STRIDE: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr, GATHERS: tl.constexpr,
    NONE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> None:  # fmt: skip
    """y = relu?(sum over slots of x[table[slot]] weight[slot] + bias? + residual?)

    weight (slots, C_IN, C_OUT); table (slots, padded) of input rows in visiting order, NONE or
    less where there is none; order: the row of the result that each belongs to; slots (tiles,
    n_slots): those that some row of the tile has come first, counts (tiles,) of them. Without
    GATHERS every row is made of the same row of x. One loop over slots and channels, without a
    branch, so that Triton can fetch rows ahead while it multiplies.
    """
    tile = tl.program_id(0)
    CHUNKS: tl.constexpr = (C_IN + DEPTH - 1) // DEPTH
    place = tile * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    live = place < n_out
    if GATHERS:
        active = tl.load(counts + tile)
        row = tl.load(order + place, live, 0).to(tl.int32)
    else:
        active, row = 1, place
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in tl.range(0, active * CHUNKS, num_stages=STAGES):
        channel = (step % CHUNKS) * DEPTH + depth
        if GATHERS:
            slot = tl.load(slots + tile * n_slots + step // CHUNKS)
            source = tl.load(table + slot * padded + place)
            there = source > NONE
        else:
            slot, source, there = 0, place, live
        a = tl.load(
            x + source[:, None] * X_STRIDE + channel[None, :],
            there[:, None] & (channel < C_IN)[None, :],
            0.0,
        )
        b = tl.load(
            weight + (slot * C_IN + channel)[:, None] * C_OUT + column[None, :],
            (channel < C_IN)[:, None] & (column < C_OUT)[None, :],
            0.0,
        )
        total = multiply_add(a, b, total, PRECISION, UPCAST)
    inside = live[:, None] & (column < C_OUT)[None, :]
    if BIAS:
        total += tl.load(bias + column, column < C_OUT, 0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        at = residual + row[:, None] * RESIDUAL_STRIDE + column[None, :]
        total += tl.load(at, inside, 0.0).to(tl.float32)
    if RELU:
        total = tl.maximum(total, 0.0)
    at = y + row[:, None] * Y_STRIDE + column[None, :]
    tl.store(at, total.to(y.dtype.element_ty), inside)


@triton.jit(do_not_specialize=COUNTS)
def read_masks(
    table: tl.tensor,
    marks: tl.tensor,
    masks: tl.tensor,
    n_out: tl.tensor,
    n_slots: tl.tensor,
    stride: tl.tensor,
    NONE: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """masks (n_out,): the bits marks[slot] of every slot in which a row of table (n_out, slots)
    has a neighbour; as a number in the order of Gray codes.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < n_out
    mask = tl.zeros((ROWS,), tl.int64)
    for slot in range(n_slots):
        source = tl.load(table + row * stride + slot, live, NONE)
        mark = tl.load(marks + slot)
        mask |= tl.where(source > NONE, mark, 0)
    for power in tl.static_range(6):  # the place of the mask among Gray codes
        mask = mask ^ (mask >> (1 << power))
    tl.store(masks + row, mask, live)


@triton.jit(do_not_specialize=COUNTS)
def arrange_tiles(
    table: tl.tensor,
    order: tl.tensor,
    arranged: tl.tensor,
    slots: tl.tensor,
    counts: tl.tensor,
    n_out: tl.tensor,
    padded: tl.tensor,
    n_slots: tl.tensor,
    stride: tl.tensor,
    NONE: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """arranged (slots, padded): table (n_out, slots) in visiting order, slot by slot; the slots
    of each tile and how many they are, as convolve_tiles reads them.
    """
    tile = tl.program_id(0)
    place = tile * ROWS + tl.arange(0, ROWS)
    live = place < n_out
    row = tl.load(order + place, live, 0)
    active = 0
    for slot in range(n_slots):
        source = tl.load(table + row * stride + slot, live, NONE)
        tl.store(arranged + slot * padded + place, source)
        wanted = tl.max((source > NONE).to(tl.int32), 0)
        tl.store(slots + tile * n_slots + active, slot, wanted > 0)
        active += wanted
    tl.store(counts + tile, active)


@triton.jit(do_not_specialize=COUNTS)
def arrange_ups(
    ordered: tl.tensor,
    arranged: tl.tensor,
    slots: tl.tensor,
    counts: tl.tensor,
    n_out: tl.tensor,
    padded: tl.tensor,
    n_in: tl.tensor,
    n_slots: tl.tensor,
    ROWS: tl.constexpr,
) -> None:
    """arrange_tiles of rows with one neighbour each: ordered (n_out,), slot * n_in + row, of which
    row 0 is nobody.
    """
    tile = tl.program_id(0)
    place = tile * ROWS + tl.arange(0, ROWS)
    up = tl.load(ordered + place, place < n_out, 0)
    row = (up % n_in).to(tl.int32)
    active = 0
    for slot in range(n_slots):
        source = tl.where(up // n_in == slot, row, 0)
        tl.store(arranged + slot * padded + place, source)
        wanted = (tl.max(source, 0) > 0).to(tl.int32)
        tl.store(slots + tile * n_slots + active, slot, wanted > 0)
        active += wanted
    tl.store(counts + tile, active)


@triton.jit
def correlate_pairs(
    x: tl.tensor,
    dy: tl.tensor,
    in_rows: tl.tensor,
    out_rows: tl.tensor,
    firsts: tl.tensor,
    ends: tl.tensor,
    parts: tl.tensor,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:
    """parts (shares, C_OUT, C_IN): of each share of the pairs the sum of dy[out]^T x[in].

    A share lies within one slot, from firsts to ends; DEPTH pairs at a time.
    """
    share = tl.program_id(0)
    out = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    into = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    pair = tl.arange(0, DEPTH)
    end = tl.load(ends + share)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for at in tl.range(tl.load(firsts + share), end, DEPTH, num_stages=STAGES):
        live = at + pair < end
        source = tl.load(in_rows + at + pair, live, 0)
        target = tl.load(out_rows + at + pair, live, 0)
        a = tl.load(
            dy + target[:, None] * Y_STRIDE + out[None, :],
            live[:, None] & (out < C_OUT)[None, :],
            0.0,
        )
        b = tl.load(
            x + source[:, None] * X_STRIDE + into[None, :],
            live[:, None] & (into < C_IN)[None, :],
            0.0,
        )
        total = multiply_add(tl.trans(a), b, total, PRECISION, UPCAST)
    at_part = parts + share.to(tl.int64) * C_OUT * C_IN + out[:, None] * C_IN + into[None, :]
    tl.store(at_part, total, (out < C_OUT)[:, None] & (into < C_IN)[None, :])


@triton.jit(do_not_specialize=COUNTS)
def add_parts(
    parts: tl.tensor,
    starts: tl.tensor,
    dw: tl.tensor,
    n_slots: tl.tensor,
    c_in: tl.tensor,
    c_out: tl.tensor,
    ROWS: tl.constexpr,
) -> None:
    """dw (c_out, slots, c_in): the shares of each slot, starts[slot] to starts[slot + 1], added
    one after the other.
    """
    slot = tl.program_id(0)
    size = c_out * c_in
    place = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    live = place < size
    total = tl.zeros((ROWS,), tl.float32)
    for share in range(tl.load(starts + slot), tl.load(starts + slot + 1)):
        at = parts + tl.cast(share, tl.int64) * size + place
        total += tl.load(at, live, 0.0)
    at = dw + ((place // c_in) * n_slots + slot) * c_in + place % c_in
    tl.store(at, total.to(dw.dtype.element_ty), live)


@triton.jit(do_not_specialize=COUNTS)
def answer_tiles(
    logits: tl.tensor,
    labels: tl.tensor,
    probability: tl.tensor,
    entropy: tl.tensor,
    rows: tl.tensor,
    scale: tl.tensor,
    CLASSES: tl.constexpr,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """The best class of each row, its probability p, and -scale sum p ln p."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    one = tl.arange(0, WIDTH)
    live = row < rows
    real = (one < CLASSES)[None, :]
    at = logits + row[:, None] * STRIDE + one[None, :]
    values = tl.load(at, live[:, None] & real, float('-inf')).to(tl.float32)
    values = tl.where(live[:, None], values, 0.0)
    best = tl.max(values, 1)
    above = tl.where(real, values - best[:, None], 0.0)
    weight = tl.where(real, tl.exp(above), 0.0)
    total = tl.sum(weight, 1)
    # -sum p ln p = ln(total) - sum(weight * above) / total
    spread = tl.sum(weight * above, 1) / total
    tl.store(labels + row, tl.argmax(values, 1).to(tl.uint8), live)
    tl.store(probability + row, 1 / total, live)
    tl.store(entropy + row, (tl.log(total) - spread) * scale, live)

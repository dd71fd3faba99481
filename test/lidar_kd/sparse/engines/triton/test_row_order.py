# SPDX-License-Identifier: Apache-2.0
"""The numbers by which rows are sorted, and the products that tiles save by it."""

from __future__ import annotations

import pytest
import torch

from lidar_kd.sparse.engines.triton.order import count_products, marks_of_slots, visit_numbers


def test_the_middle_has_the_lowest_bit_and_a_corner_three_sides() -> None:
    marks = marks_of_slots(27)
    assert marks[13] == 1  # (0, 0, 0)
    # the last of 27 slots by distance, and of six sides x, y and z forwards: bits 0, 2 and 4
    assert marks[26] == 1 << 26 | (1 + 4 + 16) << 27
    assert marks[0] >> 27 == 2 + 8 + 32  # backwards
    assert marks[22] >> 27 == 1  # (1, 0, 0)


@pytest.mark.parametrize('slots', [8, 9, 27, 125, 343])
def test_every_number_is_positive_in_64_bits(slots: int) -> None:
    everybody = visit_numbers(torch.ones(1, slots), marks_of_slots(slots), none=0)
    assert int(everybody) > 0
    assert min(marks_of_slots(slots)) > 0


def test_a_kernel_that_is_no_cube_has_slots_and_no_sides() -> None:
    assert sorted(marks_of_slots(9)) == [1 << bit for bit in range(9)]


def test_rows_with_the_same_neighbours_share_a_tile() -> None:
    table = torch.full((4, 27), -1)
    table[::2, 0] = table[1::2, 26] = 5
    # tiles of two rows: sorted, each has one slot; as they come, both have both
    assert count_products(table, 2, 1, none=-1) == 2 * 2
    assert count_products(table, 2, 1, none=-1, sorts=False) == 2 * 2 * 2


def test_rows_with_somebody_on_the_same_side_are_visited_one_after_the_other() -> None:
    table = torch.full((4, 27), -1)
    # (0, 0, 1) and the corner (1, 1, 1) lie above; (-1, 0, 0) beside, and (0, 0, -1) below
    table[0, 14] = table[2, 26] = table[1, 4] = table[3, 12] = 5
    order = visit_numbers(table, marks_of_slots(27), none=-1).argsort().tolist()
    assert abs(order.index(0) - order.index(2)) == 1

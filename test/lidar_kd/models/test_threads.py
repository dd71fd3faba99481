# SPDX-License-Identifier: Apache-2.0
"""How many threads answer changes no bit of a small network's answers."""

from __future__ import annotations

import torch

from lidar_kd.models import build_model
from lidar_kd.sparse import Engine
from lidar_kd.voxels import CartesianGrid, voxelize


def test_a_minkunet_answers_with_the_same_bits_on_1_to_8_threads(native: Engine) -> None:
    torch.manual_seed(3)
    points = torch.rand(6000, 4) * torch.tensor([40.0, 40.0, 4.0, 1.0])
    network = build_model('minkunet', classes=19, width=0.25).eval()
    voxels = voxelize(points, CartesianGrid(voxel_m=0.3), engine=native)
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4, 8):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                answers.append(network(voxels).voxel_logits)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(answers[0], each) for each in answers[1:])

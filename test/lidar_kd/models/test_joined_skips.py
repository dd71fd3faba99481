# SPDX-License-Identifier: Apache-2.0
"""An engine that can write into wider rows joins what a U-Net skips without a copy."""

from __future__ import annotations

from typing import Any

import pytest
from seen_network import build_seen, GRID, scan
import torch
from torch import Tensor

from lidar_kd.models.output import Output
from lidar_kd.sparse import Engine, fold_norms
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.voxels import voxelize

TINY: dict[str, dict[str, Any]] = {
    'minkunet': {'width': 0.25},
    'spvcnn': {'width': 0.25},
    'spunet': {'base_channels': 8, 'channels': [8, 12, 12, 4], 'layers': [1, 2, 2, 1]},
}


class JoiningEngine(TorchEngine):
    """Notes the places that results are written to: (first channel, channels, width of a row)."""

    joins = True

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[int, int, int]] = []

    def infer_into(self, out: Tensor, *args: Any, **options: Any) -> Tensor:
        self.places.append((int(out.storage_offset()), out.shape[1], out.stride(0)))
        return super().infer_into(out, *args, **options)


def answered(name: str, engine: Engine) -> Output:
    model = fold_norms(build_seen(name, **TINY[name]))
    with torch.inference_mode():
        output: Output = model(voxelize(scan(), GRID, engine=engine))
    return output


@pytest.mark.parametrize('name', TINY)
def test_the_answers_have_the_same_bits(name: str) -> None:
    joined, copied = answered(name, JoiningEngine()), answered(name, TorchEngine())
    assert torch.equal(joined.voxel_logits, copied.voxel_logits)
    assert torch.equal(joined.point_logits, copied.point_logits)


def test_every_skip_leaves_room_for_what_comes_up_beside_it() -> None:
    engine = JoiningEngine()
    answered('spunet', engine)
    # base 8, stages down 8 and 12, up 12 and 4: the first stage down is joined with 12 channels,
    # the stem with 4; the skips are written on the way down, the others on the way up
    assert engine.places == [(4, 8, 12), (12, 8, 20), (0, 12, 20), (0, 4, 12)]


def test_with_gradients_nothing_is_written_beside_anything() -> None:
    engine = JoiningEngine()
    model = build_seen('minkunet', **TINY['minkunet'])
    model(voxelize(scan(), GRID, engine=engine)).voxel_logits.sum().backward()
    assert engine.places == []

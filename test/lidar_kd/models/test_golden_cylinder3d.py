# SPDX-License-Identifier: Apache-2.0
"""Published Cylinder3D weights, imported by name, give what spconv 1 gave, and as written."""

from pathlib import Path

import pytest
from safetensors import safe_open
import torch
from torch import Tensor

from lidar_kd.voxels import voxelize, Voxels
from training.import_weights import grid_of
from training.importing.loading import load
from training.importing.pointcept import FAMILIES
from training.importing.reading import read_checkpoint
from training.importing.renaming import Checkpoint

GOLDEN = Path(__file__).resolve().parents[4] / 'shared' / 'golden' / 'cylinder3d_tiny.safetensors'
FAMILY = FAMILIES['cylinder3d']
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_file(), reason='the golden files are not beside this checkout'
)


@pytest.fixture(scope='module')
def golden() -> dict[str, Tensor]:
    with safe_open(GOLDEN, framework='pt') as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def voxels_of(golden: dict[str, Tensor], state: Checkpoint) -> Voxels:
    ends = golden['offset']
    sizes = torch.diff(ends, prepend=ends.new_zeros(1))
    batch = torch.repeat_interleave(torch.arange(len(ends)), sizes)
    return voxelize(golden['point'], grid_of(FAMILY, state, 0.05), batch=batch)


def test_points_fall_into_the_published_cells(golden: dict[str, Tensor]) -> None:
    voxels = voxels_of(golden, read_checkpoint(GOLDEN))
    assert torch.equal(voxels.coords, golden['voxel_coord'])
    assert torch.equal(voxels.point_voxel.int(), golden['point_voxel'])


@pytest.mark.parametrize(
    ('shared', 'expected'), [(True, 'voxel_logits'), (False, 'voxel_logits_own_pairs')]
)
def test_cylinder3d_gives_the_golden_logits_in_every_row(
    golden: dict[str, Tensor], shared: bool, expected: str
) -> None:
    state = read_checkpoint(GOLDEN)
    state.config = {**state.config, 'shared_pairs': shared}
    with torch.inference_mode():
        output = load(state, FAMILY)(voxels_of(golden, state))
    assert (output.voxel_logits - golden[expected]).abs().max() < 1e-3
    if shared:
        assert (output.point_logits - golden['logits']).abs().max() < 1e-3

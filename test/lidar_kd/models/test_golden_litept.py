# SPDX-License-Identifier: Apache-2.0
"""Published LitePT checkpoints, imported by name, give what the published code gives."""

from pathlib import Path

import pytest
from safetensors import safe_open
import torch

from lidar_kd.bundle import load_bundle
from lidar_kd.models import build_model
from lidar_kd.voxels import voxels_from_cells
from training.import_weights import main
from training.importing.loading import load
from training.importing.pointcept import FAMILIES
from training.importing.reading import read_checkpoint

GOLDEN = Path(__file__).resolve().parents[4] / 'shared' / 'golden' / 'litept_tiny.safetensors'


needs_golden = pytest.mark.skipif(
    not GOLDEN.is_file(), reason='the golden files are not beside this checkout'
)


@needs_golden
def test_litept_gives_the_golden_output_in_every_row() -> None:
    with safe_open(GOLDEN, framework='pt') as file:
        golden = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    cells, features, ends = (golden[name] for name in ('grid_coord', 'feat', 'offset'))
    model = load(read_checkpoint(GOLDEN), FAMILIES['litept'])
    with torch.inference_mode():
        output = model(voxels_from_cells(cells, features, ends))
    assert (output.point_features - golden['out_feat']).abs().max() < 1e-3
    assert (output.point_logits - golden['logits']).abs().max() < 1e-3


@pytest.mark.parametrize(
    ('preset', 'inputs', 'classes', 'parameters'),
    [
        ('litept_s', 4, 16, 12_705_100),
        ('litept_s', 4, 19, 12_705_319),
        ('litept_s', 6, 25, 12_714_757),
        ('litept_b', 4, 16, 45_100_456),
        ('litept_b', 6, 25, 45_114_613),
        ('litept_l', 4, 16, 85_863_616),
        ('litept_l', 6, 25, 85_882_273),
    ],
)
def test_litept_presets_have_the_published_number_of_parameters(
    preset: str, inputs: int, classes: int, parameters: int
) -> None:
    with torch.device('meta'):
        model = build_model(preset, classes=classes, in_channels=inputs)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@needs_golden
def test_a_litept_without_settings_stops_and_is_told_by_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = tmp_path / 'a.pth', tmp_path / 'b.safetensors'
    torch.save({'state_dict': dict(read_checkpoint(GOLDEN))}, checkpoint)
    options = [str(checkpoint), '-o', str(bundle), '--network', 'litept']
    assert main(options) == 2
    said = capsys.readouterr().err
    assert 'patch (enc_patch_size), heads (enc_num_head)' in said
    heads = '[2, 3, 4, 2, 3]'
    told = [f'enc_num_head={heads}', 'enc_patch_size=[64, 64, 64, 64, 64]', 'order=[z, hilbert]']
    told += ['enc_rope_freq=[100.0]', 'grid_size=0.1']
    assert main([*options, *(word for pair in told for word in ('--set', pair))]) == 0
    spec = load_bundle(bundle).spec
    assert spec.model.settings['encoder_heads'] == [2, 3, 4, 2, 3]
    assert spec.model.settings['patch'] == 64
    assert 'assumed' not in spec.provenance

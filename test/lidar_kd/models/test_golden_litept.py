# SPDX-License-Identifier: Apache-2.0
"""Published LitePT checkpoints, imported by name, give what the published code gives."""

from pathlib import Path

import pytest
from safetensors import safe_open
import torch

from lidar_kd.bundle import load_bundle
from lidar_kd.labels import NO_CLASSES, NUSCENES
from lidar_kd.models import build_model
from lidar_kd.voxels import CartesianGrid, voxels_from_cells
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


SETTINGS = {
    'enc_num_head': '[2, 3, 4, 2, 3]',
    'enc_patch_size': '[64, 64, 64, 64, 64]',
    'enc_rope_freq': '[100.0, 100.0, 100.0, 100.0, 100.0]',
    'order': "['z', 'z-trans', 'hilbert', 'hilbert-trans']",
}
PUBLISHED = """
_base_ = ['default_runtime.py']
names = {names}
model = dict(type='DefaultSegmentorV2', backbone=dict(type='LitePT-v1', {settings}))
data = dict(
    names=names,
    train=dict(transform=[dict(type='GridSample', grid_size=0.1)]),
    test=dict(transform=[dict(type='GridSample', grid_size=0.05)]))
scheduler = dict(max_lr=[1 / 4, 2**-3])
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """As a training run leaves it, without what its constructor was given."""
    torch.save({'state_dict': dict(read_checkpoint(GOLDEN))}, tmp_path / 'a.pth')
    return tmp_path / 'a.pth'


def write_published(folder: Path, **changes: str) -> Path:
    """As in LitePT's own repository, with its classes the other way round."""
    settings = ', '.join(f'{key}={value}' for key, value in (SETTINGS | changes).items())
    (folder / 'default_runtime.py').write_text('seed = None')
    names = [name.replace('_', ' ').title() for name in reversed(NUSCENES.names)]
    (folder / 'a.py').write_text(PUBLISHED.format(names=names, settings=settings))
    return folder / 'a.py'


def run(checkpoint: Path, *words: str) -> tuple[int, Path]:
    bundle = checkpoint.parent / 'b.safetensors'
    return main([str(checkpoint), '-o', str(bundle), '--network', 'litept', *words]), bundle


@needs_golden
def test_a_litept_without_settings_stops_and_names_them(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, bundle = run(checkpoint)
    assert (status, bundle.exists()) == (2, False)
    said = capsys.readouterr().err
    assert 'patch (enc_patch_size), heads (enc_num_head)' in said
    assert 'voxel size (grid_size, or --voxel-m)' in said


@needs_golden
def test_a_litept_is_told_by_set(checkpoint: Path) -> None:
    pairs = [f'{key}={value}' for key, value in SETTINGS.items()] + ['grid_size=0.1']
    status, bundle = run(checkpoint, *(word for pair in pairs for word in ('--set', pair)))
    assert status == 0
    spec = load_bundle(bundle).spec
    assert spec.model.settings['encoder_heads'] == [2, 3, 4, 2, 3]
    assert spec.model.settings['patch'] == 64
    assert 'assumed' not in spec.provenance


@needs_golden
def test_a_litept_is_told_by_its_configuration_and_its_classes_come_into_our_order(
    checkpoint: Path,
) -> None:
    status, bundle = run(checkpoint, '--config', str(write_published(checkpoint.parent)))
    assert status == 0
    loaded = load_bundle(bundle)
    assert loaded.spec.labels == NUSCENES
    assert loaded.spec.grid == CartesianGrid(voxel_m=0.1)
    assert loaded.spec.intensity.scale == 1 / 255  # as Pointcept's data set has it
    assert 'assumed' not in loaded.spec.provenance
    found, stored = loaded.model.state_dict(), read_checkpoint(GOLDEN)
    for leaf in ('weight', 'bias'):
        assert torch.equal(found[f'head.{leaf}'], stored[f'seg_head.{leaf}'].flip(0))


@needs_golden
def test_what_a_litept_assumes_is_recorded(checkpoint: Path) -> None:
    status, bundle = run(checkpoint, '--assume', '--set', 'enc_num_head=[2, 3, 4, 2, 3]')
    assert status == 0
    assumed = load_bundle(bundle).spec.provenance['assumed']
    assert 'patch (enc_patch_size)' in assumed
    assert 'heads' not in assumed


@needs_golden
@pytest.mark.parametrize(
    ('key', 'value', 'sentence'),
    [
        ('enc_patch_size', '[64, 64, 64, 64, 32]', 'patch_size: one for all levels that attend'),
        ('enc_rope_freq', '[1.0, 1.0, 1.0, 100.0, 10.0]', 'rope_freq: one for all levels'),
        ('enc_patch_size', '64', 'enc_patch_size: give a list, one number per level'),
        ('stride', '(2, 2, 4, 2)', 'strides 4: only 2 is known'),
    ],
)
def test_a_litept_of_another_structure_is_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, sentence: str
) -> None:
    config = write_published(checkpoint.parent, **{key: value})
    assert run(checkpoint, '--config', str(config))[0] == 2
    assert sentence in capsys.readouterr().err


@needs_golden
@pytest.mark.parametrize('extra', [True, False])
def test_a_litept_with_missing_or_extra_names_gets_one_sentence(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], extra: bool
) -> None:
    state = dict(read_checkpoint(GOLDEN))
    if extra:
        state['enc.enc3.block0.more'] = torch.zeros(1)
    else:
        del state['enc.enc3.block0.norm1.0.bias']
    torch.save(state, checkpoint)
    config = write_published(checkpoint.parent)
    assert run(checkpoint, '--config', str(config))[0] == 2
    said = '1 not known: enc.enc3' if extra else '1 missing: encoder.3.0.attention_norm.bias'
    assert said in capsys.readouterr().err


@needs_golden
def test_a_litept_without_its_head_teaches_by_features(checkpoint: Path) -> None:
    state = {k: v for k, v in read_checkpoint(GOLDEN).items() if not k.startswith('seg_head')}
    torch.save(state, checkpoint)
    words = ['--config', str(write_published(checkpoint.parent)), '--intensity-scale', '0.5']
    assert run(checkpoint, *words)[0] == 2
    status, bundle = run(checkpoint, *words, '--labels', 'none')
    assert status == 0
    loaded = load_bundle(bundle)
    assert loaded.spec.labels == NO_CLASSES
    assert loaded.spec.intensity.scale == 0.5
    stored = state['embedding.stem.conv.weight']
    assert torch.equal(loaded.model.state_dict()['stem.conv.weight'], stored)

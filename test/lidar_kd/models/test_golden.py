# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints, imported by name, give what the reference implementation gave."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
import torch
from torch import Tensor

from lidar_kd.bundle import load_bundle
from lidar_kd.errors import BundleError
from lidar_kd.sparse import fold_norms
from lidar_kd.voxels import voxels_from_cells
from training.import_weights import main
from training.importing.loading import load
from training.importing.pointcept import FAMILIES
from training.importing.reading import read_checkpoint

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT.parent / 'shared' / 'golden'
SPUNET = GOLDEN / 'spunet_tiny.safetensors'
FAMILY = FAMILIES['spunet']
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason='the golden files are not beside this checkout'
)


@cache
def golden() -> dict[str, Tensor]:
    with safe_open(SPUNET, framework='pt') as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class Reference:
    """The published network in float64 by the checkpoint's names, cells found in a dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            self.state[f'{name}.{leaf}']
            for leaf in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return (x - mean) / torch.sqrt(variance + 1e-3) * scale + shift

    def convolve(self, x: Tensor, cells: Tensor, targets: Tensor, name: str, step: int) -> Tensor:
        """y[t] = sum over o of x[step * t + o] W[o]; step 1: centred, 2: strided, -1: back."""
        weight = self.state[f'{name}.weight']
        size = weight.shape[1]
        row_of = {cell: row for row, cell in enumerate(map(tuple, cells.tolist()))}
        y = torch.zeros(len(targets), weight.shape[0], dtype=torch.float64)
        for offset in np.ndindex(size, size, size):
            shift = torch.tensor([0, *offset])
            inside = torch.ones(len(targets), dtype=torch.bool)
            if step == 1:
                wanted = targets + shift - torch.tensor([0, *(size // 2,) * 3])
            elif step == 2:
                wanted = targets * torch.tensor([1, 2, 2, 2]) + shift
            else:
                wanted = targets >> torch.tensor([0, 1, 1, 1])
                inside = ((targets & 1)[:, 1:] == shift[1:]).all(1)
            rows = torch.tensor([row_of.get(cell, -1) for cell in map(tuple, wanted.tolist())])
            out = torch.nonzero(inside & (rows >= 0)).squeeze(1)
            y[out] += x[rows[out]] @ weight[(slice(None), *offset)].T
        return y

    def pointwise(self, x: Tensor, name: str) -> Tensor:
        """torch.mm(x, weight.view(C_in, C_out)), as spconv writes it."""
        weight = self.state[f'{name}.weight']
        return x @ weight.view(weight.shape[-1], weight.shape[0])

    def blocks(self, x: Tensor, cells: Tensor, stage: str) -> Tensor:
        for k in range(9):
            name = f'{stage}.block{k}'
            if f'{name}.conv1.weight' not in self.state:
                break
            y = self.convolve(x, cells, cells, f'{name}.conv1', 1)
            y = self.norm(y, f'{name}.bn1').relu()
            y = self.norm(self.convolve(y, cells, cells, f'{name}.conv2', 1), f'{name}.bn2')
            if f'{name}.proj.0.weight' in self.state:
                x = self.norm(self.pointwise(x, f'{name}.proj.0'), f'{name}.proj.1')
            x = (x + y).relu()
        return x

    def __call__(self, cells: Tensor, features: Tensor, stages: int) -> Tensor:
        stem = self.convolve(features.double(), cells, cells, 'conv_input.0', 1)
        levels = [(cells, self.norm(stem, 'conv_input.1').relu())]
        for s in range(stages):
            fine, x = levels[-1]
            coarse = torch.unique(fine >> torch.tensor([0, 1, 1, 1]), dim=0)
            y = self.norm(self.convolve(x, fine, coarse, f'down.{s}.0', 2), f'down.{s}.1')
            levels.append((coarse, self.blocks(y.relu(), coarse, f'enc.{s}')))
        coarse, x = levels.pop()
        for s in reversed(range(stages)):
            fine, skip = levels.pop()
            y = self.norm(self.convolve(x, coarse, fine, f'up.{s}.0', -1), f'up.{s}.1').relu()
            coarse, x = fine, self.blocks(torch.cat([y, skip], 1), fine, f'dec.{s}')
        return self.pointwise(x, 'final') + self.state['final.bias']


@needs_golden
def test_spunet_gives_the_golden_logits_in_every_row() -> None:
    voxels = voxels_from_cells(golden()['grid_coord'], golden()['feat'], golden()['offset'])
    model = load(read_checkpoint(SPUNET), FAMILY)
    with torch.inference_mode():
        for network in (model, fold_norms(model)):
            logits = network(voxels).point_logits
            assert (logits - golden()['logits']).abs().max() < 1e-3


@needs_golden
def test_spunet_gives_on_every_golden_row_what_brute_force_gives() -> None:
    cells, features = golden()['grid_coord'], golden()['feat']
    voxels = voxels_from_cells(cells, features, golden()['offset'])
    state = read_checkpoint(SPUNET)
    expected = Reference(state)(torch.cat([voxels.batch[:, None], cells], 1), features, stages=2)
    assert FAMILY.settings(state) == {
        'classes': 19,
        'in_channels': 4,
        'base_channels': 16,
        'channels': [16, 32, 32, 32],
        'layers': [1, 1, 1, 1],
    }
    with torch.inference_mode():
        assert (load(state, FAMILY)(voxels).point_logits - expected).abs().max() < 1e-4


def published(base: int, channels: list[int], layers: list[int]) -> dict[str, Tensor]:
    """A SpUNet checkpoint of 16 classes on 5 channels with random weights, named as published."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}

    def weight(name: str, c_out: int, size: int, c_in: int) -> None:
        scale = (2 / (c_in * max(1, size**3 // 4))) ** 0.5
        shape = (c_out, size, size, size, c_in)
        state[f'{name}.weight'] = torch.randn(shape, generator=generator) * scale

    def norm(name: str, width: int) -> None:
        for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
            state[f'{name}.{leaf}'] = torch.rand(width, generator=generator) + 0.5
        state[f'{name}.num_batches_tracked'] = torch.tensor(7)

    def blocks(stage: str, c_in: int, c_out: int, count: int) -> None:
        for k in range(count):
            if c_in != c_out:
                weight(f'{stage}.block{k}.proj.0', c_out, 1, c_in)
                norm(f'{stage}.block{k}.proj.1', c_out)
            weight(f'{stage}.block{k}.conv1', c_out, 3, c_in)
            weight(f'{stage}.block{k}.conv2', c_out, 3, c_out)
            norm(f'{stage}.block{k}.bn1', c_out)
            norm(f'{stage}.block{k}.bn2', c_out)
            c_in = c_out

    weight('conv_input.0', base, 5, 5)
    norm('conv_input.1', base)
    stages = len(channels) // 2
    skips = [base, *channels]
    for s in range(stages):
        weight(f'down.{s}.0', channels[s], 2, skips[s])
        norm(f'down.{s}.1', channels[s])
        blocks(f'enc.{s}', channels[s], channels[s], layers[s])
        up = channels[-1 - s]
        weight(f'up.{s}.0', up, 2, channels[-2 - s])
        norm(f'up.{s}.1', up)
        blocks(f'dec.{s}', up + skips[s], up, layers[-1 - s])
    weight('final', 16, 1, channels[-1])
    state['final.bias'] = torch.randn(16, generator=generator)
    return state


def save_torch(path: Path, state: dict[str, Tensor]) -> Path:
    """As a training run leaves it: wrapped twice, beside a score that is a numpy number."""
    wrapped = {f'module.backbone.{name}': tensor for name, tensor in state.items()}
    torch.save({'epoch': 50, 'state_dict': wrapped, 'best_metric_value': np.float64(0.7)}, path)
    return path


CHANNELS, LAYERS = [4, 6, 8, 10, 8, 8], [1, 2, 1, 2, 1, 3]


@pytest.fixture
def state() -> dict[str, Tensor]:
    return published(3, CHANNELS, LAYERS)


def test_a_deeper_spunet_with_other_widths_agrees_with_brute_force(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    cells = torch.unique(torch.randint(-9, 9, (120, 3)), dim=0)
    features = torch.randn(len(cells), 5)
    read = read_checkpoint(save_torch(tmp_path / 'model.pth', state))
    model = load(read, FAMILY)
    batch = torch.zeros(len(cells), 1, dtype=torch.long)
    expected = Reference(state)(torch.cat([batch, cells], 1), features, stages=3)
    with torch.inference_mode():
        logits = model(voxels_from_cells(cells, features, torch.tensor([len(cells)]))).point_logits
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_script_writes_a_bundle_that_loads(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = save_torch(tmp_path / 'a.pth', state), tmp_path / 'b.safetensors'
    options = ['--network', 'spunet', '--labels', 'nuscenes', '--voxel-m', '0.1']
    assert main([str(checkpoint), '-o', str(bundle), *options]) == 0
    assert 'downs.2.blocks.0.first.conv.weight' in capsys.readouterr().out
    spec = load_bundle(bundle).spec
    assert spec.model.name == 'spunet'
    assert spec.model.settings == {
        'in_channels': 5,
        'base_channels': 3,
        'channels': CHANNELS,
        'layers': LAYERS,
    }
    # GridSample of Pointcept takes one point of a voxel and counts from grid_coord.min(0)
    assert 'one point per voxel' in spec.provenance['differences']
    assert 'from the lowest of the scan' in spec.provenance['differences']


def test_a_spunet_has_no_structure_before_1_5_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path / 'a.pth'), '-o', str(tmp_path / 'b'), '--network', 'spunet']
    assert main([*words, '--before-1-5-2']) == 2
    assert 'spunet has one structure only: leave it out' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'scale', 'said'),
    [
        ('--labels nuscenes', 1 / 255, '0.00392157'),  # it stores 0 to 255
        ('--labels nuscenes --intensity-scale 1', 1, '1'),
        ('--labels semantickitti --partial', 1, '1'),
    ],
)
def test_the_intensity_scale_comes_from_the_label_table_unless_given(
    tmp_path: Path,
    state: dict[str, Tensor],
    capsys: pytest.CaptureFixture[str],
    words: str,
    scale: float,
    said: str,
) -> None:
    if '--partial' in words:
        state = {name: tensor for name, tensor in state.items() if not name.startswith('final')}
    checkpoint, bundle = save_torch(tmp_path / 'a.pth', state), tmp_path / 'b.safetensors'
    options = ['--network', 'spunet', '--voxel-m', '0.05', *words.split()]
    assert main([str(checkpoint), '-o', str(bundle), *options]) == 0
    assert load_bundle(bundle).spec.intensity.scale == scale
    assert f'intensity times {said};' in capsys.readouterr().out


@pytest.mark.parametrize('scale', ['0', '-1', 'nan', 'inf', 'loud'])
def test_an_intensity_scale_that_is_none_is_refused(tmp_path: Path, scale: str) -> None:
    words = [str(tmp_path / 'a.pth'), '-o', str(tmp_path / 'b'), '--network', 'spunet']
    with pytest.raises(SystemExit, match='2'):
        main([*words, f'--intensity-scale={scale}'])


def test_labels_with_another_number_of_classes_are_refused(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = save_torch(tmp_path / 'a.pth', state), tmp_path / 'b.safetensors'
    options = ['--network', 'spunet', '--labels', 'semantickitti', '--assume']
    assert main([str(checkpoint), '-o', str(bundle), *options]) == 2
    assert 'has 16 classes, the label table semantickitti 19' in capsys.readouterr().err
    assert not bundle.exists()


@pytest.mark.parametrize(
    ('spoil', 'sentence'),
    [
        (lambda s: s.pop('enc.1.block1.bn2.bias'), r'1 missing: downs\.1\.blocks\.1\.second'),
        (lambda s: s.pop('conv_input.0.weight'), "'conv_input.0.weight' is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), '1 not known: extra'),
        (
            lambda s: s.update({'enc.0.block0.conv2.weight': torch.zeros(4, 1, 3, 3, 4)}),
            'second.conv.weight 4 x 1 x 3 x 3 x 4 instead of 4 x 3 x 3 x 3 x 4',
        ),
        (lambda s: s.clear(), 'is missing: choose another --network'),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_never_half_loaded(
    state: dict[str, Tensor], spoil: Callable[[dict[str, Tensor]], object], sentence: str
) -> None:
    state = {name: tensor for name, tensor in state.items() if 'num_batches' not in name}
    spoil(state)
    with pytest.raises(BundleError, match=sentence):
        load(state, FAMILY, 'a.pth')

# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in spvnas' names and layout, imported, give what brute force gives.

No published checkpoint is at hand: these are made by hand, with random weights, from what the code
of spvnas and torchsparse says about names, shapes and the order of a kernel's cells.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lidar_kd.bundle import load_bundle
from lidar_kd.errors import BundleError
from lidar_kd.models.minkunet import scaled_widths
from lidar_kd.segmenter import Segmenter
from lidar_kd.voxels import voxelize
from training.import_weights import grid_of, main
from training.importing.loading import load
from training.importing.pointcept import FAMILIES
from training.importing.reading import read_checkpoint
from training.importing.spvnas import width_ratio

RATIO = 0.13  # of the widths 32, 32, 64, 128, 256, 256, 128, 96, 96, rounded down
WIDTHS = [4, 4, 8, 16, 33, 33, 16, 12, 12]
State = dict[str, Tensor]


class Maker:
    """A checkpoint of 19 classes with random weights."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.state: State = {}

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def conv(self, name: str, cells: int, c_in: int, c_out: int) -> None:
        shape = (c_in, c_out) if cells == 1 else (cells, c_in, c_out)
        scale = (2 / (c_in * max(1, cells // 4))) ** 0.5
        self.state[f'{name}.kernel'] = self.random(*shape) * scale

    def norm(self, name: str, width: int) -> None:
        for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
            self.state[f'{name}.{leaf}'] = torch.rand(width, generator=self.generator) + 0.5
        self.state[f'{name}.num_batches_tracked'] = torch.tensor(7)

    def linear(self, name: str, c_in: int, c_out: int) -> None:
        self.state[f'{name}.weight'] = self.random(c_out, c_in) / c_in**0.5
        self.state[f'{name}.bias'] = self.random(c_out)

    def unit(self, name: str, cells: int, c_in: int, c_out: int) -> None:
        self.conv(f'{name}.0', cells, c_in, c_out)
        self.norm(f'{name}.1', c_out)

    def residual(self, name: str, c_in: int, c_out: int) -> None:
        self.unit(f'{name}.net', 27, c_in, c_out)
        self.conv(f'{name}.net.3', 27, c_out, c_out)
        self.norm(f'{name}.net.4', c_out)
        if c_in != c_out:
            self.unit(f'{name}.downsample', 1, c_in, c_out)


def published(*, points: bool) -> State:
    make, cs = Maker(), WIDTHS
    make.unit('stem', 27, 4, cs[0])
    make.conv('stem.3', 27, cs[0], cs[0])
    make.norm('stem.4', cs[0])
    for k in range(1, 5):
        make.unit(f'stage{k}.0.net', 8, cs[k - 1], cs[k - 1])
        make.residual(f'stage{k}.1', cs[k - 1], cs[k])
        make.residual(f'stage{k}.2', cs[k], cs[k])
        up = cs[4 + k]
        make.unit(f'up{k}.0.net', 8, cs[3 + k], up)
        make.residual(f'up{k}.1.0', up + cs[4 - k], up)
        make.residual(f'up{k}.1.1', up, up)
    for k, (a, b) in enumerate(((0, 4), (4, 6), (6, 8)) if points else ()):
        make.linear(f'point_transforms.{k}.0', cs[a], cs[b])
        make.norm(f'point_transforms.{k}.1', cs[b])
    make.linear('classifier.0', cs[8], 19)
    return make.state


class Reference:
    """The published networks on one scan in float64; cells are found in a dict."""

    def __init__(self, state: State) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            self.state[f'{name}.{leaf}']
            for leaf in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f'{name}.weight'].T + self.state[f'{name}.bias']

    def convolve(self, x: Tensor, cells: Tensor, name: str) -> Tensor:
        """3^3 cells, or one; torchsparse counts an odd kernel with x fastest."""
        kernel = self.state[f'{name}.kernel']
        if kernel.ndim == 2:
            return x @ kernel
        offsets = [(i, j, k) for k, j, i in product((-1, 0, 1), repeat=3)]
        return sum_over(x, cells, cells, offsets, kernel)

    def down(self, x: Tensor, fine: Tensor, coarse: Tensor, name: str) -> Tensor:
        """2^3 cells; torchsparse counts an even kernel with z fastest."""
        offsets = list(product((0, 1), repeat=3))
        return sum_over(x, fine, coarse * 2, offsets, self.state[f'{name}.kernel'])

    def up(self, x: Tensor, coarse: Tensor, fine: Tensor, name: str) -> Tensor:
        kernel = self.state[f'{name}.kernel']
        parent, inside = rows_of(coarse, fine >> 1), fine & 1
        slots = inside[:, 0] * 4 + inside[:, 1] * 2 + inside[:, 2]
        return torch.stack([x[p] @ kernel[k] for p, k in zip(parent, slots.tolist())])

    def residual(self, x: Tensor, cells: Tensor, name: str) -> Tensor:
        y = self.norm(self.convolve(x, cells, f'{name}.net.0'), f'{name}.net.1').relu()
        y = self.norm(self.convolve(y, cells, f'{name}.net.3'), f'{name}.net.4')
        if f'{name}.downsample.0.kernel' in self.state:
            x = self.norm(self.convolve(x, cells, f'{name}.downsample.0'), f'{name}.downsample.1')
        return (x + y).relu()

    def encode(self, cells: Tensor, features: Tensor) -> None:
        x = self.norm(self.convolve(features.double(), cells, 'stem.0'), 'stem.1').relu()
        x = self.norm(self.convolve(x, cells, 'stem.3'), 'stem.4').relu()
        self.levels, self.skips = [cells], [x]
        for k in range(1, 5):
            fine = self.levels[-1]
            coarse = torch.unique(fine >> 1, dim=0)
            x = self.down(x, fine, coarse, f'stage{k}.0.net.0')
            x = self.norm(x, f'stage{k}.0.net.1').relu()
            x = self.residual(self.residual(x, coarse, f'stage{k}.1'), coarse, f'stage{k}.2')
            self.levels.append(coarse)
            self.skips.append(x)

    def decode(self, x: Tensor, k: int) -> Tensor:
        coarse, fine, skip = self.levels[5 - k], self.levels[4 - k], self.skips[4 - k]
        x = self.up(x, coarse, fine, f'up{k}.0.net.0')
        x = torch.cat([self.norm(x, f'up{k}.0.net.1').relu(), skip], 1)
        return self.residual(self.residual(x, fine, f'up{k}.1.0'), fine, f'up{k}.1.1')

    def minkunet(self, cells: Tensor, features: Tensor) -> Tensor:
        self.encode(cells, features)
        x = self.skips[-1]
        for k in range(1, 5):
            x = self.decode(x, k)
        return self.linear(x, 'classifier.0')

    def spvcnn(self, cells: Tensor, features: Tensor) -> Tensor:
        """One point per voxel, where its cell is."""
        self.encode(cells, features)
        z, x = self.skips[0], self.skips[-1]
        for step, depth in enumerate((4, 2, 0)):
            if step:
                above = rows_of(self.levels[depth + 2], cells >> depth + 2)
                count = len(self.levels[depth + 2])
                x = torch.stack([z[above == row].mean(0) for row in range(count)])
                x = self.decode(self.decode(x, 2 * step - 1), 2 * step)
            name = f'point_transforms.{step}'
            own = self.norm(self.linear(z, f'{name}.0'), f'{name}.1').relu()
            z = interpolate(x, self.levels[depth], cells / 2**depth) + own
        return self.linear(z, 'classifier.0')


def rows_of(cells: Tensor, wanted: Tensor) -> Tensor:
    row_of = {cell: row for row, cell in enumerate(map(tuple, cells.tolist()))}
    return torch.tensor([row_of.get(cell, -1) for cell in map(tuple, wanted.tolist())])


def sum_over(
    x: Tensor, cells: Tensor, targets: Tensor, offsets: Sequence[tuple[int, ...]], kernel: Tensor
) -> Tensor:
    y = torch.zeros(len(targets), kernel.shape[2], dtype=torch.float64)
    for offset, weight in zip(offsets, kernel, strict=True):
        rows = rows_of(cells, targets + torch.tensor(offset))
        out = torch.nonzero(rows >= 0).squeeze(1)
        y[out] += x[rows[out]] @ weight
    return y


def interpolate(x: Tensor, cells: Tensor, positions: Tensor) -> Tensor:
    """By the trilinear weights of the 8 cells around, the empty ones left out."""
    base = positions.floor()
    y = torch.zeros(len(positions), x.shape[1], dtype=torch.float64)
    total = torch.zeros(len(positions), 1, dtype=torch.float64)
    for corner in product((0, 1), repeat=3):
        rows = rows_of(cells, (base + torch.tensor(corner)).long())
        weight = (1 - (positions - base - torch.tensor(corner)).abs()).double().prod(1)
        weight = torch.where(rows >= 0, weight, 0)[:, None]
        y, total = y + weight * x[rows], total + weight
    return y / (total + 1e-8)


def scan() -> Tensor:
    """Points up to 0.4 of a voxel of 0.1 m from its middle, 5 of them in two voxels."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(-9, 9, (90, 3), generator=generator)
    cells = torch.cat([torch.unique(cells, dim=0), torch.tensor([[20, 0, 0]] * 3)])
    xyz = 0.1 * (cells + 0.8 * torch.rand(len(cells), 3, generator=generator) - 0.4)
    return torch.cat([xyz, torch.rand(len(cells), 1, generator=generator)], 1)


@pytest.mark.parametrize('network', ['minkunet', 'spvcnn'])
def test_an_imported_network_agrees_with_brute_force(network: str) -> None:
    state = published(points=network == 'spvcnn')
    family, points = FAMILIES[network], scan()
    voxels = voxelize(points, grid_of(family, state, 0.1))
    # np.round(x / voxel) is the published cell
    rounded = (points[:, :3] / 0.1).round().long()
    assert torch.equal(voxels.coords[voxels.point_voxel, 1:].long(), rounded)
    cells = voxels.coords[:, 1:].long()
    expected = getattr(Reference(state), network)(cells, voxels.features)[voxels.point_voxel]
    model = load({k: v for k, v in state.items() if 'num_batches' not in k}, family)
    with torch.inference_mode():
        logits = model(voxels).point_logits
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_script_writes_a_bundle_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, path = tmp_path / 'init', tmp_path / 'b.safetensors'
    state = {f'module.{name}': tensor for name, tensor in published(points=True).items()}
    torch.save({'model': state}, checkpoint)
    assert main([str(checkpoint), '-o', str(path), '--network', 'spvcnn', '--assume']) == 0
    assert 'unet.ups.3.blocks.0.shortcut.conv.weight' in capsys.readouterr().out
    bundle = load_bundle(path)
    settings = {'in_channels': 4, 'width': RATIO, 'whole_positions': True}
    assert bundle.spec.model.settings == settings
    assert bundle.spec.labels.name == 'semantickitti'
    assert bundle.spec.grid.origin_m == (-0.025, -0.025, -0.025)  # type: ignore[union-attr]
    assert 'rounded' in bundle.spec.provenance['differences']
    assert (Segmenter(bundle).segment(scan().numpy()).labels < 19).all()


@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.64, 1.0, 1.6])
def test_the_ratio_of_the_widths_is_found(ratio: float) -> None:
    assert width_ratio(scaled_widths(ratio)) == ratio


@pytest.mark.parametrize(
    ('spoil', 'sentence'),
    [
        (
            lambda s: s.pop('stage2.1.downsample.1.bias'),
            r'1 missing: unet\.downs\.1\.blocks\.0',
        ),
        (lambda s: s.pop('stem.0.kernel'), "'stem.0.kernel' is missing: choose another --network"),
        (lambda s: s.update(extra=torch.zeros(1)), '1 not known: extra'),
        (lambda s: s.update({'stem.3.kernel': torch.zeros(26, 4, 4)}), 'conv.weight 26 x 4 x 4'),
        (
            lambda s: s.update({'up1.0.net.0.kernel': torch.zeros(8, 33, 40)}),
            r'a\.pth: widths 4, .* by search',
        ),
        (lambda s: s.pop('classifier.0.weight'), 'has no head: pass --partial'),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_never_half_loaded(
    spoil: Callable[[State], object], sentence: str
) -> None:
    state = {k: v for k, v in published(points=True).items() if 'num_batches' not in k}
    spoil(state)
    with pytest.raises(BundleError, match=sentence):
        load(state, FAMILIES['spvcnn'], 'a.pth')


def untrained_points(state: State) -> State:
    """As in a published MinkUNet, whose forward pass never asks for its point branch."""
    starts = {'running_mean': 0, 'running_var': 1, 'num_batches_tracked': 0}
    for name, tensor in state.items():
        leaf = name.rpartition('.')[2]
        if name.startswith('point_transforms') and leaf in starts:
            tensor.fill_(starts[leaf])
    return state


def save(path: Path, state: State) -> Path:
    torch.save({'model': state}, path)
    return path


def test_a_minkunet_is_imported_with_and_without_the_points_it_never_uses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = []
    for points in (True, False):
        path = save(tmp_path / 'a.pth', untrained_points(published(points=points)))
        output = tmp_path / f'{points}.safetensors'
        words = [str(path), '-o', str(output), '--network', 'minkunet', '--assume']
        assert main([*words, '--ground-intensity', '0.3']) == 0
        printed = capsys.readouterr().out
        assert 'not known' not in printed
        # three steps of a linear layer's two tensors and a norm's four
        assert printed.count('not used') == 18 * points
        models.append(load_bundle(output).model.state_dict())
    # classifier.0 is drawn after the points, the layers before it are the same
    del models[0]['head.weight'], models[0]['head.bias']
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


def test_an_spvcnn_whose_points_were_never_trained_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', untrained_points(published(points=True)))
    with pytest.raises(BundleError, match=r'a\.pth: the norms of its point .* --network minkunet'):
        load(read_checkpoint(path), FAMILIES['spvcnn'], path)


def test_an_spvcnn_without_its_points_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', published(points=False))
    with pytest.raises(BundleError, match=r'missing: point_layers\.0\.conv\.bias'):
        load(read_checkpoint(path), FAMILIES['spvcnn'], path)

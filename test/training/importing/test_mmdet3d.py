# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in mmdet3d's names give the networks of the code that it ported.

No published checkpoint is at hand: names and shapes are what its classes make of its
configurations.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lidar_kd.bundle import load_bundle
from training.import_weights import main
from training.importing.loading import load
from training.importing.mmdet3d import cylinder_as_published, translated, unet_as_spvnas
from training.importing.pointcept import FAMILIES
from training.importing.reading import read_checkpoint
from training.importing.renaming import Checkpoint

CHANNELS = [4, 4, 8, 16, 32, 32, 16, 12, 12]  # an eighth of the published widths
GOLDEN = Path(__file__).resolve().parents[4] / 'shared' / 'golden' / 'cylinder3d_tiny.safetensors'
NAMES = (  # as in its configurations of SemanticKITTI, with their spelling
    *('car', 'bicycle', 'motorcycle', 'truck', 'bus', 'person', 'bicyclist', 'motorcyclist'),
    *('road', 'parking', 'sidewalk', 'other-ground', 'building', 'fence', 'vegetation'),
    *('trunck', 'terrian', 'pole', 'traffic-sign'),
)


class Maker:
    """The tensors of one U-Net under two names each: spvnas' and mmdet3d's of torchsparse."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.spvnas, self.mmdet3d = Checkpoint(), Checkpoint()

    def put(self, theirs: str, ported: str, *shape: int) -> None:
        tensor = torch.rand(shape, generator=self.generator) - 0.4
        self.spvnas[theirs] = self.mmdet3d[ported] = tensor

    def unit(self, theirs: tuple[str, str], ported: tuple[str, str], *shape: int) -> None:
        """A kernel and the norm behind it."""
        self.put(f'{theirs[0]}.kernel', f'{ported[0]}.kernel', *shape)
        for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
            self.put(f'{theirs[1]}.{leaf}', f'{ported[1]}.{leaf}', shape[-1])

    def block(self, theirs: str, ported: str, c_in: int, c_out: int) -> None:
        for number, width in ((0, c_in), (3, c_out)):
            pair = [f'net.{number}', f'net.{number + 1}']
            ours, other = ([f'{stem}.{part}' for part in pair] for stem in (theirs, ported))
            self.unit((ours[0], ours[1]), (other[0], other[1]), 27, width, c_out)
        if c_in != c_out:
            ours, other = ([f'{stem}.downsample.{k}' for k in '01'] for stem in (theirs, ported))
            self.unit((ours[0], ours[1]), (other[0], other[1]), c_in, c_out)


def unet(blocks: list[int]) -> Maker:
    """blocks: of the four stages down; two each on the way up."""
    make, c = Maker(), CHANNELS
    for k, (first, c_in) in enumerate(((0, 4), (3, c[0]))):
        ported = f'backbone.conv_input.{k}.net'
        ours = f'stem.{first}', f'stem.{first + 1}'
        make.unit(ours, (f'{ported}.0', f'{ported}.1'), 27, c_in, c[0])
    for k in range(4):
        theirs, ported = f'stage{k + 1}', f'backbone.encoder.{k}'
        ours = f'{theirs}.0.net.0', f'{theirs}.0.net.1'
        make.unit(ours, (f'{ported}.0.net.0', f'{ported}.0.net.1'), 8, c[k], c[k])
        for b in range(1, blocks[k] + 1):
            make.block(f'{theirs}.{b}', f'{ported}.{b}', c[k] if b == 1 else c[k + 1], c[k + 1])
    for k in range(4):
        theirs, ported, wide = f'up{k + 1}', f'backbone.decoder.{k}', c[5 + k]
        ours = f'{theirs}.0.net.0', f'{theirs}.0.net.1'
        make.unit(ours, (f'{ported}.0.net.0', f'{ported}.0.net.1'), 8, c[4 + k], wide)
        for b in range(2):
            c_in = wide if b else wide + c[3 - k]
            make.block(f'{theirs}.1.{b}', f'{ported}.1.{b}', c_in, wide)
    for leaf, shape in (('weight', (19, c[8])), ('bias', (19,))):
        make.put(f'classifier.0.{leaf}', f'decode_head.conv_seg.{leaf}', *shape)
    return make


def of_spconv(state: Checkpoint) -> Checkpoint:
    """The same network in the names and the layout of mmdet3d on spconv, cell by cell.

    torchsparse counts the cells of an odd kernel with x fastest, of an even one with z fastest.
    """
    found = Checkpoint()
    units = {'net.0': 'conv1', 'net.1': 'bn1', 'net.3': 'conv2', 'net.4': 'bn2'}
    for name, tensor in state.items():
        own, parts = name.replace('net.', '', 1), name.split('.')
        if 'coder' in name and parts[3] != '0':  # of a residual block
            unit = '.'.join(parts[-3:-1])
            own = name.replace(unit, units.get(unit, unit))
        if name.endswith('kernel'):
            own, tensor = own.replace('kernel', 'weight'), spconv_layout(tensor)
        found[own] = tensor
    return found


def spconv_layout(kernel: Tensor) -> Tensor:
    if kernel.ndim == 2:  # read as (C_in, C_out) from the memory of (C_out, 1, 1, 1, C_in)
        return kernel.reshape(kernel.shape[1], 1, 1, 1, kernel.shape[0])
    cells, c_in, c_out = kernel.shape
    size = {8: 2, 27: 3}[cells]
    weight = torch.empty(c_out, size, size, size, c_in)
    for x in range(size):
        for y in range(size):
            for z in range(size):
                cell = (z * size + y) * size + x if size == 3 else (x * size + y) * size + z
                weight[:, x, y, z] = kernel[cell].T
    return weight


@pytest.mark.parametrize('blocks', [[2, 2, 2, 2], [2, 3, 4, 6]])
@pytest.mark.parametrize('engine', ['torchsparse', 'spconv'])
def test_a_minkunet_is_the_same_under_all_its_names(
    tmp_path: Path, blocks: list[int], engine: str
) -> None:
    made, family = unet(blocks), FAMILIES['minkunet']
    ported = made.mmdet3d if engine == 'torchsparse' else of_spconv(made.mmdet3d)
    torch.save({'meta': {}, 'state_dict': dict(ported)}, tmp_path / 'a.pth')
    state = unet_as_spvnas(read_checkpoint(tmp_path / 'a.pth'))
    found = load(state, family).state_dict()
    expected = load(made.spvnas, family).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_script_reads_its_names_its_bases_and_its_words_for_the_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({'state_dict': dict(unet([2, 3, 4, 6]).mmdet3d)}, tmp_path / 'a.pth')
    (tmp_path / 'data.py').write_text(f'class_names = {[*NAMES]}')
    (tmp_path / 'own.py').write_text(
        "_base_ = ['data.py']\nmodel = dict(voxel_layer=dict(voxel_size=[0.1, 0.1, 0.1]))"
    )
    bundle = tmp_path / 'b.safetensors'
    words = ['--network', 'minkunet', '--config', str(tmp_path / 'own.py')]
    assert main([str(tmp_path / 'a.pth'), '-o', str(bundle), *words]) == 0
    spec = load_bundle(bundle).spec
    assert spec.labels.name == 'semantickitti'
    assert spec.model.settings['blocks'] == [2, 3, 4, 6, 2, 2, 2, 2]
    assert spec.model_dump()['grid']['voxel_m'] == 0.1
    assert 'assumed' not in spec.provenance
    assert 'inferred' in capsys.readouterr().out


def test_an_engine_whose_order_of_cells_is_not_known_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # MinkowskiEngine calls its layers otherwise
    state = {
        name.replace('.net.', '.conv.'): tensor
        for name, tensor in unet([2, 2, 2, 2]).mmdet3d.items()
    }
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    words = ['--network', 'minkunet', '--set', 'grid_size=0.05']
    assert main([str(tmp_path / 'a.pth'), '-o', str(tmp_path / 'b'), *words]) == 2
    assert 'is missing: choose another --network' in capsys.readouterr().err


def test_an_spvcnn_keeps_its_points() -> None:
    made = unet([2, 2, 2, 2])
    for k, (a, b) in enumerate(((0, 4), (4, 6), (6, 8))):
        theirs = f'point_transforms.{k}'
        for leaf, shape in (('weight', (CHANNELS[b], CHANNELS[a])), ('bias', (CHANNELS[b],))):
            made.put(f'{theirs}.0.{leaf}', f'{theirs}.0.{leaf}', *shape)
        for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
            made.put(f'{theirs}.1.{leaf}', f'{theirs}.1.{leaf}', CHANNELS[b])
    ported = Checkpoint(
        (name.removeprefix('backbone.'), tensor) for name, tensor in made.mmdet3d.items()
    )
    found = load(unet_as_spvnas(ported), FAMILIES['spvcnn']).state_dict()
    expected = load(made.spvnas, FAMILIES['spvcnn']).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


# --- Cylinder3D ---

SEG = 'cylinder_3d_spconv_seg.'
LAYERS = {'conv1': 'conv0_0', 'bn0': 'bn0_0', 'conv1_2': 'conv0_1', 'bn0_2': 'bn0_1'}
LAYERS |= {'conv2': 'conv1_0', 'bn1': 'bn1_0', 'conv3': 'conv1_1', 'bn2': 'bn1_1'}
GATES = {'conv1_2': 'conv2', 'conv1_3': 'conv3', 'bn0': 'bn1', 'bn0_2': 'bn2', 'bn0_3': 'bn3'}
POINTS = {'0': 'pre_norm', '10': 'vfe_layers.3'}
POINTS |= {str(3 * k + 1 + part): f'vfe_layers.{k}.{part}' for k in range(3) for part in (0, 1)}


def ported_name(name: str) -> str:
    """xinge008's name of a tensor in mmdet3d's words."""
    stem, leaf = name.rsplit('.', 1)
    if stem.startswith('cylinder_3d_generator.PPmodel.'):
        return f'voxel_encoder.{POINTS[stem.rsplit(".", 1)[1]]}.{leaf}'
    if stem.startswith('cylinder_3d_generator.'):
        return f'voxel_encoder.compression_layers.0.{leaf}'
    room, _, part = stem.removeprefix(SEG).partition('.')
    if room == 'logits':
        return f'decode_head.conv_seg.{leaf}'
    if room == 'ReconNet':
        return f'backbone.ddcm.{GATES.get(part, part)}.{leaf}'
    if room.startswith('upBlock'):
        part = part.replace('trans_dilao', 'trans_conv')
        return f'backbone.up_block_list.{3 - int(room[-1])}.{part}.{leaf}'
    number = f'down_block_list.{int(room[-1]) - 2}' if room != 'downCntx' else 'down_context'
    return f'backbone.{number}.{LAYERS.get(part, part)}.{leaf}'


@pytest.mark.skipif(not GOLDEN.is_file(), reason='the golden files are not beside this checkout')
def test_a_cylinder3d_is_the_same_with_its_unlabelled_class_at_the_end(tmp_path: Path) -> None:
    published = read_checkpoint(GOLDEN)
    state = {
        ported_name(name): torch.cat([t[..., 1:], t[..., :1]], -1) if 'logits' in name else t
        for name, t in published.items()
    }
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    found = cylinder_as_published(read_checkpoint(tmp_path / 'a.pth'))
    assert found.keys() == published.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in published.items())


def test_its_keys_are_translated() -> None:
    found = translated(
        {'grid_shape': [480, 360, 32], 'point_cloud_range': [0, -3, -4, 50, 3, 2], 'order': 'z'}
    )
    assert found == {
        'output_shape': [480, 360, 32],
        'min_volume_space': [0, -3, -4],
        'max_volume_space': [50, 3, 2],
        'order': 'z',
    }

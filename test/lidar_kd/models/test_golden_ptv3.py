# SPDX-License-Identifier: Apache-2.0
"""Published PTv3 checkpoints, imported by name, give what the published code gives."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_kd.bundle import load_bundle
from lidar_kd.errors import BundleError
from lidar_kd.labels import NUSCENES
from lidar_kd.models import build_model
from lidar_kd.models.serialization import encode, ORDERS
from lidar_kd.voxels import CartesianGrid, voxels_from_cells
from training.import_weights import main
from training.importing.loading import load
from training.importing.pointcept import BEFORE_1_5_2, FAMILIES
from training.importing.reading import read_checkpoint
from training.importing.renaming import Checkpoint, Family

GOLDEN = Path(__file__).resolve().parents[4] / 'shared' / 'golden' / 'ptv3_tiny.safetensors'
FAMILY = FAMILIES['ptv3']
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_file(), reason='the golden files are not beside this checkout'
)


class Published:
    """The network of one scan in float64 by the checkpoint's names; cells found in a dict.

    before_1_5_2: a block ended with `sparse_conv_feat.replace_feature(feat)`, whose answer was
    thrown away, so the sparse tensor of the next cpe.0 had what the MLP's PointSequential put in.
    """

    def __init__(
        self,
        state: Checkpoint,
        *,
        heads: dict[str, Sequence[int]],
        patch: int,
        before_1_5_2: bool = False,
    ) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}
        self.heads, self.patch, self.before_1_5_2 = heads, patch, before_1_5_2
        self.orders: list[list[str]] = []  # per level

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f'{name}.weight'].T + self.state[f'{name}.bias']

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f'{name}.weight'], self.state[f'{name}.bias']
        return F.layer_norm(x, x.shape[1:], weight, bias)

    def activate(self, x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            self.state[f'{name}.{leaf}']
            for leaf in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return F.gelu((x - mean) / torch.sqrt(variance + 1e-3) * scale + shift)

    def convolve(self, x: Tensor, cells: Tensor, name: str) -> Tensor:
        weight = self.state[f'{name}.weight']
        row_of = {cell: row for row, cell in enumerate(map(tuple, cells.tolist()))}
        y = torch.zeros(len(x), len(weight), dtype=torch.float64)
        for offset in np.ndindex(*weight.shape[1:4]):
            wanted = cells + torch.tensor(offset) - weight.shape[1] // 2
            rows = torch.tensor([row_of.get(cell, -1) for cell in map(tuple, wanted.tolist())])
            out = torch.nonzero(rows >= 0).squeeze(1)
            y[out] += x[rows[out]] @ weight[(slice(None), *offset)].T
        return y

    def attend(self, x: Tensor, order: Tensor, heads: int, name: str) -> Tensor:
        y, size = torch.empty_like(x), min(self.patch, len(x))
        q, k, v = self.linear(x, f'{name}.qkv').view(len(x), 3, heads, -1).unbind(1)
        for start in range(0, len(x), size):
            own = order[start : start + size]
            seen = order[min(start, len(x) - size) :][:size]
            scores = torch.einsum('ihc,jhc->hij', q[own], k[seen]) / q.shape[2] ** 0.5
            y[own] = torch.einsum('hij,jhc->ihc', scores.softmax(2), v[seen]).flatten(1)
        return self.linear(y, f'{name}.proj')

    def blocks(self, x: Tensor, level: int, kind: str, seen: Tensor | None = None) -> Tensor:
        cells, orders = self.levels[level], self.orders[level]
        sparse = x if seen is None else seen
        for k in range(9):
            name = f'{kind}.{kind}{level}.block{k}'
            if f'{name}.norm1.0.weight' not in self.state:
                break
            y = self.convolve(sparse, cells, f'{name}.cpe.0') + self.state[f'{name}.cpe.0.bias']
            x = x + self.layer_norm(self.linear(y, f'{name}.cpe.1'), f'{name}.cpe.2')
            depth = torch.full((len(cells),), self.depth - level)
            order = encode(cells, depth, orders[k % len(orders)]).argsort()
            y = self.layer_norm(x, f'{name}.norm1.0')
            x = x + self.attend(y, order, self.heads[kind][level], f'{name}.attn')
            y = F.gelu(self.linear(self.layer_norm(x, f'{name}.norm2.0'), f'{name}.mlp.0.fc1'))
            y = self.linear(y, f'{name}.mlp.0.fc2')
            x = x + y
            sparse = y if self.before_1_5_2 else x
        return x

    def __call__(self, cells: Tensor, features: Tensor, turns: Sequence[Sequence[int]]) -> Tensor:
        """(N, classes) logits; turns: how each pooling turns the orders."""
        self.depth = (int(cells.max()) + 1).bit_length()
        self.levels, self.orders, parents, skips = [cells], [list(ORDERS)], [], []
        stem = self.convolve(features.double(), cells, 'embedding.stem.conv')
        x = self.blocks(self.activate(stem, 'embedding.stem.norm'), 0, 'enc')
        for level, turn in enumerate(turns, 1):
            coarse, parent = torch.unique(self.levels[-1] >> 1, dim=0, return_inverse=True)
            self.levels.append(coarse)
            self.orders.append([self.orders[-1][k] for k in turn])
            parents.append(parent)
            skips.append(x)
            down = f'enc.enc{level}.down'
            y = self.linear(x, f'{down}.proj')
            x = torch.stack([y[parent == row].amax(0) for row in range(len(coarse))])
            x = self.blocks(self.activate(x, f'{down}.norm.0'), level, 'enc')
        for level in reversed(range(len(turns))):
            up = f'dec.dec{level}.up'
            own = self.activate(
                self.linear(skips[level], f'{up}.proj_skip.0'), f'{up}.proj_skip.1'
            )
            x = self.activate(self.linear(x, f'{up}.proj.0'), f'{up}.proj.1')[parents[level]]
            x = self.blocks(own + x, level, 'dec', own)  # cpe.0 sees what it saw before the sum
        return self.linear(x, 'seg_head')


@cache
def golden() -> dict[str, Tensor]:
    with safe_open(GOLDEN, framework='pt') as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@needs_golden
def test_ptv3_gives_the_golden_output_in_every_row() -> None:
    state = read_checkpoint(GOLDEN)
    cells, features, ends = (golden()[name] for name in ('grid_coord', 'feat', 'offset'))
    with torch.inference_mode():
        output = load(state, FAMILY)(voxels_from_cells(cells, features, ends))
    assert (output.point_features - golden()['out_feat']).abs().max() < 1e-3
    assert (output.point_logits - golden()['logits']).abs().max() < 1e-3
    published = Published(state, heads={'enc': (2, 4, 8), 'dec': (4, 4)}, patch=128)
    starts = [0, *ends[:-1].tolist()]
    fixed = [range(4)] * 2
    expected = [published(cells[a:b], features[a:b], fixed) for a, b in zip(starts, ends)]
    assert (output.point_logits - torch.cat(expected)).abs().max() < 1e-4


def random_checkpoint(**settings: Any) -> Checkpoint:
    """Our names turned back into the published ones, with random weights."""
    model = build_model('ptv3', classes=16, **settings)
    ours = {k: v for k, v in model.state_dict().items() if 'num_batches' not in k}
    generator = torch.Generator().manual_seed(4)
    for name, tensor in ours.items():
        if tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif name.endswith('qkv.weight'):
            tensor.mul_(4)  # attention that prefers some rows
    units = {'conv': 'cpe.0', 'position.0': 'cpe.1', 'position.1': 'cpe.2'}
    units |= {'attention_norm': 'norm1.0', 'mlp_norm': 'norm2.0', 'attention.qkv': 'attn.qkv'}
    units |= {'attention.proj': 'attn.proj', 'mlp.0': 'mlp.0.fc1', 'mlp.2': 'mlp.0.fc2'}
    parts = {'proj.linear': 'proj.0', 'proj.norm': 'proj.1'}
    parts |= {'skip.linear': 'proj_skip.0', 'skip.norm': 'proj_skip.1'}
    state = Checkpoint()
    for name, tensor in ours.items():
        stem, leaf = name.rsplit('.', 1)
        room, _, rest = stem.partition('.')
        level, _, unit = rest.partition('.')
        if room in ('encoder', 'decoder'):
            block, _, unit = unit.partition('.')
            theirs = f'{room[:3]}.{room[:3]}{level}.block{block}.{units[unit]}'
        elif room == 'pools':
            part = {'proj.linear': 'proj', 'proj.norm': 'norm.0'}[unit]
            theirs = f'enc.enc{int(level) + 1}.down.{part}'
        elif room == 'unpools':
            theirs = f'dec.dec{level}.up.{parts[unit]}'
        else:
            theirs = f'embedding.{stem}' if room == 'stem' else 'seg_head'
        state[f'{theirs}.{leaf}'] = tensor
    state.config = {
        'enc_num_head': settings['encoder_heads'],
        'dec_num_head': settings['decoder_heads'],
        'enc_patch_size': [settings['patch']] * len(settings['encoder_heads']),
        'dec_patch_size': [settings['patch']] * len(settings['decoder_heads']),
    }
    return state


DEEPER: dict[str, Any] = {
    'in_channels': 5,
    'encoder_depths': [1, 2, 5, 1],
    'encoder_channels': [8, 12, 16, 20],
    'encoder_heads': [2, 3, 4, 5],
    'decoder_depths': [2, 1, 3],
    'decoder_channels': [12, 8, 16],
    'decoder_heads': [3, 2, 2],
    'mlp_ratio': 3.0,
}


def error_of(family: Family, state: Checkpoint, published: Published) -> float:
    """The largest of two scans' logits against brute force, of the largest logit."""
    cells = torch.unique(torch.randint(0, 14, (260, 3)), dim=0)
    features, ends = torch.randn(len(cells), 5), torch.tensor([60, len(cells)])
    fixed = [range(4)] * 3
    parts = [published(cells[a:b], features[a:b], fixed) for a, b in ((0, 60), (60, None))]
    with torch.inference_mode():
        logits = load(state, family)(voxels_from_cells(cells, features, ends)).point_logits
    expected = torch.cat(parts)
    return float((logits - expected).abs().max() / expected.abs().max())


DEEPER_HEADS = {'enc': DEEPER['encoder_heads'], 'dec': DEEPER['decoder_heads']}


@pytest.mark.parametrize('patch', [7, 24, 1000])
def test_a_deeper_ptv3_with_other_widths_agrees_with_brute_force(patch: int) -> None:
    state = random_checkpoint(patch=patch, **DEEPER)
    published = Published(state, heads=DEEPER_HEADS, patch=patch)
    assert error_of(FAMILY, state, published) < 1e-4


def test_weights_of_before_1_5_2_run_as_the_code_of_then_ran_them() -> None:
    state = random_checkpoint(patch=24, **DEEPER)
    published = Published(state, heads=DEEPER_HEADS, patch=24, before_1_5_2=True)
    assert error_of(BEFORE_1_5_2['ptv3'], state, published) < 1e-4
    assert error_of(FAMILY, state, published) > 1e-2


SMALL: dict[str, Any] = {
    'encoder_depths': [1, 1],
    'encoder_channels': [8, 16],
    'encoder_heads': [2, 4],  # as published: no shape says them
    'decoder_depths': [1],
    'decoder_channels': [8],
    'decoder_heads': [4],
}


@pytest.fixture
def state() -> Checkpoint:
    return random_checkpoint(patch=8, **SMALL)


def save(path: Path, state: Checkpoint) -> Path:
    """As a training run leaves it: the body in a backbone, the head beside it, no settings."""
    inside = ('embedding', 'enc', 'dec')
    names = {name: f'backbone.{name}' if name.startswith(inside) else name for name in state}
    torch.save({'state_dict': {f'module.{names[k]}': v for k, v in state.items()}}, path)
    return path


def test_the_script_asks_for_nothing_that_the_checkpoint_says(
    tmp_path: Path, state: Checkpoint
) -> None:
    checkpoint, bundle = save(tmp_path / 'a.pth', state), tmp_path / 'b.safetensors'
    assert main([str(checkpoint), '-o', str(bundle), '--network', 'ptv3', '--assume']) == 0
    loaded = load_bundle(bundle)
    assert loaded.spec.labels.name == 'nuscenes'  # 16 classes
    assert loaded.spec.model.settings == {'in_channels': 4, **SMALL}
    assert loaded.spec.provenance['imported_from'] == 'a.pth'
    assert torch.equal(loaded.model.state_dict()['head.weight'], state['seg_head.weight'])


def test_what_no_shape_tells_is_not_guessed_unless_told(
    tmp_path: Path, state: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = save(tmp_path / 'a.pth', state), tmp_path / 'b.safetensors'
    options = [str(checkpoint), '-o', str(bundle), '--network', 'ptv3']
    assert main(options) == 2
    said = capsys.readouterr().err
    assert 'patch (enc_patch_size)' in said
    assert 'heads (enc_num_head)' in said
    assert not bundle.exists()
    assert main([*options, '--assume']) == 0
    assert 'patch (enc_patch_size)' in load_bundle(bundle).spec.provenance['assumed']


TOLD = 'enc_patch_size=[8, 4]', 'dec_patch_size=[8]', 'enc_num_head=[2, 4]', 'dec_num_head=[4]'


@pytest.mark.parametrize('by', ['set', 'config'])
def test_what_no_shape_tells_can_be_told(tmp_path: Path, state: Checkpoint, by: str) -> None:
    checkpoint, bundle = save(tmp_path / 'a.pth', state), tmp_path / 'b.safetensors'
    options = [str(checkpoint), '-o', str(bundle), '--network', 'ptv3']
    pairs = [*TOLD, 'order=["z"]', 'grid_size=0.1']
    config = tmp_path / 'a.py'
    config.write_text(f'model = dict(backbone=dict({", ".join(pairs)}))')
    words = [word for pair in pairs for word in ('--set', pair)]
    assert main([*options, *(words if by == 'set' else ['--config', str(config)])]) == 0
    spec = load_bundle(bundle).spec
    told = {'patch': [8, 4], 'decoder_patch': [8], 'orders': ['z']}
    assert spec.model.settings == {'in_channels': 4, **SMALL, **told}
    assert spec.grid == CartesianGrid(voxel_m=0.1)
    assert 'assumed' not in spec.provenance


def test_code_in_a_configuration_is_refused_unrun(
    tmp_path: Path, state: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, config = save(tmp_path / 'a.pth', state), tmp_path / 'a.py'
    config.write_text(f'import os\nx = os.mkdir({str(tmp_path / "done")!r})')
    options = [str(checkpoint), '-o', str(tmp_path / 'b'), '--network', 'ptv3']
    assert main([*options, '--config', str(config)]) == 2
    assert 'line 1: code beyond literals' in capsys.readouterr().err
    assert not (tmp_path / 'done').exists()


@pytest.mark.parametrize('before', [False, True])
def test_the_structure_is_said_and_noted(
    tmp_path: Path, state: Checkpoint, capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    checkpoint, bundle = save(tmp_path / 'a.pth', state), tmp_path / 'b.safetensors'
    options = [str(checkpoint), '-o', str(bundle), '--network', 'ptv3', '--assume']
    assert main(options + ['--before-1-5-2'] * before) == 0
    said = 'before 1.5.2: the convolution of every' if before else 'older, as the released ones'
    assert said in capsys.readouterr().out
    loaded = load_bundle(bundle)
    assert said in loaded.spec.provenance['structure']
    assert loaded.spec.model.settings.get('conv_sees_mlp', False) is before
    assert 'one point per voxel' in loaded.spec.provenance['differences']


def test_a_checkpoint_without_a_head_is_loaded_only_when_told(
    tmp_path: Path, state: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    del state['seg_head.weight'], state['seg_head.bias']
    checkpoint, bundle = save(tmp_path / 'a.pth', state), tmp_path / 'b.safetensors'
    options = [str(checkpoint), '-o', str(bundle), '--network', 'ptv3', '--assume']
    assert main(options) == 2
    assert 'has no head: name its label table with --labels' in capsys.readouterr().err
    options += ['--labels', 'semantickitti']
    assert main(options) == 2
    assert 'pass --partial to keep a random one' in capsys.readouterr().err
    assert main([*options, '--partial']) == 0
    loaded = load_bundle(bundle).model.state_dict()
    assert loaded['head.weight'].shape == (19, 8)
    assert torch.equal(loaded['stem.conv.weight'], state['embedding.stem.conv.weight'])


@pytest.mark.parametrize(
    ('spoil', 'sentence'),
    [
        ('enc.enc1.block0.attn.qkv.bias', r'1 missing: encoder\.1\.0\.attention\.qkv\.bias'),
        ('embedding.stem.conv.weight', "'embedding.stem.conv.weight' is missing: choose another"),
        ('', '1 not known: extra'),
    ],
)
def test_a_checkpoint_with_missing_or_extra_names_gets_one_sentence(
    state: Checkpoint, spoil: str, sentence: str
) -> None:
    if spoil:
        del state[spoil]
    else:
        state['extra'] = torch.zeros(1)
    with pytest.raises(BundleError, match=sentence):
        load(state, FAMILY, 'a.pth')
    if spoil != 'embedding.stem.conv.weight':
        load(state, FAMILY, 'a.pth', partial=NUSCENES)


@pytest.mark.parametrize(
    ('setting', 'sentence'),
    [
        ({'stride': [4]}, 'strides 4: only 2 is known'),
        ({'pre_norm': False}, 'pre_norm False: only True is known'),
        ({'qk_scale': 0.5}, 'qk_scale 0.5: only None is known'),
    ],
)
def test_settings_of_another_structure_are_refused(
    state: Checkpoint, setting: dict[str, Any], sentence: str
) -> None:
    usual = {'stride': [2], 'pre_norm': True, 'qk_scale': None}
    state.config = {**state.config, **usual}
    load(state, FAMILY, 'a.pth')
    state.config = {**state.config, **setting}
    with pytest.raises(BundleError, match=f'a.pth: {sentence}'):
        load(state, FAMILY, 'a.pth')

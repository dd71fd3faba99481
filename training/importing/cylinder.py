# SPDX-License-Identifier: Apache-2.0
"""Cylinder3D as its own repository and PVKD name it and store it (spconv 1.2.1)."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from lidar_kd.errors import BundleError
from lidar_kd.voxels import CylinderGrid
from training.importing.renaming import renamed, rows_of, Rules, StateDict

HEAD = 'cylinder_3d_spconv_seg.logits.weight'
UNSHAPED = {
    'output_shape': 'cells of the grid',
    'max_volume_space': 'upper bounds',
    'min_volume_space': 'lower bounds',
}
NOTE = (
    'trained on spconv 1.2.1, where layers of one key share the pairs of the first: run so here, '
    'the weights without a use left out; shared_pairs=false runs them as the paper is written'
)
_SEG = r'cylinder_3d_spconv_seg\.'
_POINTS = {
    '1': '0.conv',
    '2': '0.norm',
    '4': '1.conv',
    '5': '1.norm',
    '7': '2.conv',
    '8': '2.norm',
}
# of a block's two pairs of layers; the context block begins the other way round
_PAIRS = {
    'conv1': ('0', 'conv'),
    'bn0': ('0', 'norm'),
    'conv1_2': ('1', 'conv'),
    'bn0_2': ('1', 'norm'),
    'conv2': ('2', 'conv'),
    'bn1': ('2', 'norm'),
    'conv3': ('3', 'conv'),
    'bn2': ('3', 'norm'),
}
_UPS = {
    'trans_dilao': 'before.conv',
    'trans_bn': 'before.norm',
    'up_subm': 'up',
    **{f'conv{k}': f'after.{k - 1}.conv' for k in (1, 2, 3)},
    **{f'bn{k}': f'after.{k - 1}.norm' for k in (1, 2, 3)},
}
_LINES = {'conv1': '0.conv', 'conv1_2': '1.conv', 'conv1_3': '2.conv'}
_LINES |= {'bn0': '0.norm', 'bn0_2': '1.norm', 'bn0_3': '2.norm'}


def cylinder_names(state: StateDict) -> dict[str, str]:
    pairs, ups, lines = ('|'.join(names) for names in (_PAIRS, _UPS, _LINES))
    rules: Rules = {
        r'cylinder_3d_generator\.PPmodel\.0\.(\w+)': lambda leaf: f'points.norm.{leaf}',
        r'cylinder_3d_generator\.PPmodel\.([124578])\.(\w+)': (
            lambda unit, leaf: f'points.hidden.{_POINTS[unit]}.{leaf}'
        ),
        r'cylinder_3d_generator\.PPmodel\.10\.(\w+)': lambda leaf: f'points.last.{leaf}',
        r'cylinder_3d_generator\.fea_compression\.0\.(\w+)': lambda leaf: f'squeeze.{leaf}',
        rf'{_SEG}downCntx\.({pairs})\.(\w+)': lambda unit, leaf: (
            f'stem.{_of_pair(unit, "wall", "slice")}.{leaf}'
        ),
        rf'{_SEG}resBlock([2-5])\.({pairs})\.(\w+)': lambda block, unit, leaf: (
            f'blocks.{int(block) - 2}.{_of_pair(unit, "slice", "wall")}.{leaf}'
        ),
        rf'{_SEG}resBlock([2-5])\.pool\.(\w+)': (
            lambda block, leaf: f'pools.{int(block) - 2}.{leaf}'
        ),
        rf'{_SEG}upBlock([0-3])\.({ups})\.(\w+)': (
            lambda block, unit, leaf: f'ups.{block}.{_UPS[unit]}.{leaf}'
        ),
        rf'{_SEG}ReconNet\.({lines})\.(\w+)': (
            lambda unit, leaf: f'context.lines.{_LINES[unit]}.{leaf}'
        ),
        rf'{_SEG}logits\.(\w+)': lambda leaf: f'head.{leaf}',
    }
    return renamed(state, rules)


def _of_pair(unit: str, first: str, second: str) -> str:
    number, kind = _PAIRS[unit]
    return f'{first if number in "01" else second}_first.{int(number) % 2}.{kind}'


def cylinder_settings(state: StateDict) -> dict[str, Any]:
    config = getattr(state, 'config', {})
    generator = 'cylinder_3d_generator'
    grid = cylinder_grid(state)
    head = state[HEAD]
    return {
        'classes': head.shape[-1],
        'width': head.shape[-2] // 4,
        'voxel_channels': rows_of(state, f'{generator}.fea_compression.0.weight'),
        'point_channels': rows_of(state, f'{generator}.PPmodel.10.weight'),
        'point_hidden': [len(state[f'{generator}.PPmodel.{k}.weight']) for k in (1, 4, 7)],
        'shared_pairs': config.get('shared_pairs', True),
        'cell_sizes': list(grid.cell_sizes),
        'extent': list(grid.shape),
        'point_head': False,  # the published networks have none
    }


def cylinder_grid(state: StateDict) -> CylinderGrid:
    """Of SemanticKITTI where the settings do not say it."""
    config = getattr(state, 'config', {})
    top = config.get('max_volume_space', (50, math.pi, 2))
    low = config.get('min_volume_space', (0, -math.pi, -4))
    shape = config.get('output_shape', (480, 360, 32))
    if any(not isinstance(part, (list, tuple)) or len(part) != 3 for part in (top, low, shape)):
        raise BundleError(f'{", ".join(UNSHAPED)}: give three numbers each: radius, angle, height')
    return CylinderGrid(
        shape=tuple(shape),
        radius_m=(low[0], top[0]),
        height_m=(low[2], top[2]),
        cell='published',
        outside='clamp',
    )


def cylinder_weights(state: StateDict) -> dict[str, Tensor]:
    """Their tensors in our layout, with the slots of a kernel that its pairs ask for."""
    config = getattr(state, 'config', {})
    shared = config.get('shared_pairs', True)
    return {name: _weight(name, tensor, shared=shared) for name, tensor in state.items()}


def _weight(name: str, tensor: Tensor, *, shared: bool) -> Tensor:
    if tensor.ndim == 2:  # a linear layer
        return tensor[:, None, None, None]
    if tensor.ndim != 5:
        return tensor
    kernel = _shared_kernel(name) if shared else None
    if kernel:
        slots = math.prod(kernel)
        tensor = tensor.flatten(0, 2)[:slots].unflatten(0, kernel)
    return tensor.permute(4, 0, 1, 2, 3).contiguous()


def _shared_kernel(name: str) -> tuple[int, int, int] | None:
    """Of the layer whose pairs this one takes."""
    if re.search(r'downCntx\.conv|upBlock\d\.conv', name):
        return 1, 3, 3
    if re.search(r'resBlock\d\.conv', name):
        return 3, 1, 3
    return (3, 1, 1) if 'ReconNet.conv' in name else None

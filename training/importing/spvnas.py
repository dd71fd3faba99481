# SPDX-License-Identifier: Apache-2.0
"""MinkUNet and SPVCNN as spvnas names and stores them; its stages count from 1, as they run."""

from __future__ import annotations

from collections.abc import Sequence
import math
import re
from typing import Any

from torch import Tensor

from lidar_kd.errors import BundleError
from lidar_kd.models.minkunet import BLOCKS, scaled_widths, WIDTHS
from training.importing.renaming import count_of, LAYER, renamed, rows_of, Rules, StateDict

UNITS = {
    'net.0': 'first.conv',
    'net.1': 'first.norm',
    'net.3': 'second.conv',
    'net.4': 'second.norm',
    'downsample.0': 'shortcut.conv',
    'downsample.1': 'shortcut.norm',
}
STAGES = {'stage': 'down', 'up': 'up'}
STEM = {'0': '0.conv', '1': '0.norm', '3': '1.conv', '4': '1.norm'}
SPVNAS_NOTE = (
    'trained on positions rounded to voxels, counted from the lowest of the scan, with the '
    'features of one point per voxel; here rounded, counted from the sensor, with their mean'
)
POINTS = 'point_transforms.'  # MinkUNet has them too, but only SPVCNN asks for them


def minkunet_names(state: StateDict) -> dict[str, str]:
    units = '|'.join(map(re.escape, UNITS))

    def stage(kind: str, number: str) -> str:
        return f'unet.{STAGES[kind]}s.{int(number) - 1}'

    rules: Rules = {
        r'stem\.([0134])\.(\w+)': lambda unit, leaf: f'unet.stem.{STEM[unit]}.{_leaf(leaf)}',
        r'(stage|up)([1-4])\.0\.net\.([01])\.(\w+)': lambda kind, number, unit, leaf: (
            f'{stage(kind, number)}.{STAGES[kind]}.{LAYER[unit]}.{_leaf(leaf)}'
        ),
        rf'stage([1-4])\.([1-9]\d*)\.({units})\.(\w+)': lambda number, block, unit, leaf: (
            f'{stage("stage", number)}.blocks.{int(block) - 1}.{UNITS[unit]}.{_leaf(leaf)}'
        ),
        rf'up([1-4])\.1\.(\d+)\.({units})\.(\w+)': lambda number, block, unit, leaf: (
            f'{stage("up", number)}.blocks.{block}.{UNITS[unit]}.{_leaf(leaf)}'
        ),
        r'classifier\.0\.(\w+)': lambda leaf: f'head.{leaf}',
    }
    return renamed(state, rules)


def spvcnn_names(state: StateDict) -> dict[str, str]:
    rules: Rules = {
        r'point_transforms\.([0-2])\.([01])\.(\w+)': (
            lambda step, unit, leaf: f'point_layers.{step}.{LAYER[unit]}.{leaf}'
        ),
    }
    return minkunet_names(state) | renamed(state, rules)


def minkunet_settings(state: StateDict) -> dict[str, Any]:
    layers = ['stem.0', *(f'stage{k}.1.net.0' for k in range(1, 5))]
    layers += [f'up{k}.0.net.0' for k in range(1, 5)]
    blocks = [count_of(state, rf'stage{k}\.(\d+)\.net\..*') - 1 for k in range(1, 5)]
    blocks += [count_of(state, rf'up{k}\.1\.(\d+)\.net\..*') for k in range(1, 5)]
    settings = {
        'classes': rows_of(state, 'classifier.0.weight'),
        'in_channels': state['stem.0.kernel'].shape[-2],
        'width': width_ratio([state[f'{layer}.kernel'].shape[-1] for layer in layers]),
    }
    return settings if blocks == [*BLOCKS] else {**settings, 'blocks': blocks}


def width_ratio(widths: Sequence[int]) -> float:
    """The shortest decimal fraction of the full widths that gives these."""
    least = max(found / full for found, full in zip(widths, WIDTHS))
    for digits in range(6):
        ratio = math.ceil(least * 10**digits) / 10**digits
        if scaled_widths(ratio) == widths:
            return ratio
    raise BundleError(
        f'widths {", ".join(map(str, widths))}: no ratio of {", ".join(map(str, WIDTHS))}: '
        'a network found by search cannot be imported'
    )


def spvcnn_settings(state: StateDict) -> dict[str, Any]:
    if _is_unseen(state, 'running_mean', 0) and _is_unseen(state, 'running_var', 1):
        raise BundleError(
            "the norms of its point branch have seen no data, as in a MinkUNet's checkpoint: "
            'choose --network minkunet'
        )
    return {**minkunet_settings(state), 'whole_positions': True}


def _is_unseen(state: StateDict, leaf: str, start: float) -> bool:
    """Whether this statistic of all norms of the point branch is what no data leave it."""
    found = [v for k, v in state.items() if k.startswith(POINTS) and k.endswith(leaf)]
    return bool(found) and all(bool((statistic == start).all()) for statistic in found)


def torchsparse_weight(name: str, tensor: Tensor) -> Tensor:
    """From (K, C_in, C_out), of one cell (C_in, C_out), of a linear layer (C_out, C_in).

    torchsparse counts the cells of an odd kernel with x fastest, of an even one with z fastest.
    """
    if not name.endswith('.kernel'):
        return tensor[:, None, None, None] if tensor.ndim == 2 else tensor
    if tensor.ndim == 2:
        return tensor.T[:, None, None, None]
    cells, *channels = tensor.shape
    size = round(cells ** (1 / 3))
    if size**3 != cells:
        return tensor
    whole = tensor.reshape(size, size, size, *channels)
    return whole.permute(4, 2, 1, 0, 3) if size % 2 else whole.permute(4, 0, 1, 2, 3)


def _leaf(name: str) -> str:
    return 'weight' if name == 'kernel' else name

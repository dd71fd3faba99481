# SPDX-License-Identifier: Apache-2.0
"""How published code bases name the tensors of their networks, and ours in their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from lidar_kd.labels import NUSCENES, SEMANTICKITTI
from training.importing.cylinder import (
    cylinder_grid,
    cylinder_names,
    cylinder_settings,
    cylinder_weights,
    HEAD,
    NOTE,
    UNSHAPED,
)
from training.importing.mmdet3d import cylinder_as_published, unet_as_spvnas
from training.importing.renaming import count_of, Family, LAYER, renamed, rows_of, Rules, StateDict
from training.importing.spvnas import (
    minkunet_names,
    minkunet_settings,
    POINTS,
    spvcnn_names,
    spvcnn_settings,
    SPVNAS_NOTE,
    torchsparse_weight,
)
from training.importing.transformers import (
    LITEPT,
    litept_names,
    litept_settings,
    ptv3_names,
    ptv3_settings,
    ptv3_settings_before_1_5_2,
    TRANSFORMER,
)

POINTCEPT_NOTE = (
    'trained on voxels counted from the lowest of the scan, with the features of one point per '
    'voxel; here counted from the sensor, with their mean'
)

# what the stored intensities are multiplied by, as its data sets do
POINTCEPT_INTENSITY = {SEMANTICKITTI.name: 1.0, NUSCENES.name: 1 / 255}

# --- SpUNet as Pointcept names it: levels count from the finest on both ways ---

_SPUNET_UNITS = {
    'conv1': 'first.conv',
    'bn1': 'first.norm',
    'conv2': 'second.conv',
    'bn2': 'second.norm',
    'proj.0': 'shortcut.conv',
    'proj.1': 'shortcut.norm',
}


def spunet_names(state: StateDict) -> dict[str, str]:
    stages = count_of(state, r'down\.(\d+)\.0\.weight')

    def stage(kind: str, level: str) -> str:
        down = kind in ('down', 'enc')
        return f'downs.{level}' if down else f'ups.{stages - 1 - int(level)}'

    rules: Rules = {
        r'conv_input\.([01])\.(\w+)': lambda unit, leaf: f'stem.{LAYER[unit]}.{leaf}',
        r'(down|up)\.(\d+)\.([01])\.(\w+)': lambda kind, level, unit, leaf: (
            f'{stage(kind, level)}.{kind}.{LAYER[unit]}.{leaf}'
        ),
        r'(enc|dec)\.(\d+)\.block(\d+)\.(conv[12]|bn[12]|proj\.[01])\.(\w+)': (
            lambda kind, level, block, unit, leaf: (
                f'{stage(kind, level)}.blocks.{block}.{_SPUNET_UNITS[unit]}.{leaf}'
            )
        ),
        r'final\.(\w+)': lambda leaf: f'head.{leaf}',
    }
    return renamed(state, rules)


def spunet_settings(state: StateDict) -> dict[str, Any]:
    stages = count_of(state, r'down\.(\d+)\.0\.weight')
    down = [('down', 'enc', level) for level in range(stages)]
    up = [('up', 'dec', level) for level in reversed(range(stages))]
    base_channels, *_, in_channels = state['conv_input.0.weight'].shape
    return {
        'classes': rows_of(state, 'final.weight'),
        'in_channels': in_channels,
        'base_channels': base_channels,
        'channels': [len(state[f'{step}.{level}.0.weight']) for step, _, level in down + up],
        'layers': [
            count_of(state, rf'{part}\.{level}\.block(\d+)\.conv1\.weight')
            for _, part, level in down + up
        ],
    }


def spconv_weight(_name: str, tensor: Tensor) -> Tensor:
    """Our layout, where only kernels of one cell differ.

    They are stored as (C_out, 1, 1, 1, C_in), but spconv 2 reads that memory as (C_in, C_out).
    """
    if tensor.ndim != 5 or tensor.shape[1:4] != (1, 1, 1):
        return tensor
    c_out, *_, c_in = tensor.shape
    return tensor.reshape(c_in, c_out).T.reshape(tensor.shape).contiguous()


def _unchanged(_name: str, tensor: Tensor) -> Tensor:
    return tensor


FAMILIES = {
    'ptv3': Family(
        'ptv3',
        ptv3_names,
        ptv3_settings,
        _unchanged,
        note=POINTCEPT_NOTE,
        intensity=POINTCEPT_INTENSITY,
        unshaped=TRANSFORMER,
        structure='that of Pointcept 1.5.2 and later: weights trained with 1.5.1 or older, as the '
        'released ones were, need --before-1-5-2',
    ),
    'litept': Family(
        'litept',
        litept_names,
        litept_settings,
        _unchanged,
        note=POINTCEPT_NOTE,
        intensity=POINTCEPT_INTENSITY,
        unshaped=LITEPT,
    ),
    'spunet': Family(
        'spunet',
        spunet_names,
        spunet_settings,
        spconv_weight,
        note=POINTCEPT_NOTE,
        intensity=POINTCEPT_INTENSITY,
    ),
    'cylinder3d': Family(
        'cylinder3d',
        cylinder_names,
        cylinder_settings,
        _unchanged,
        note=NOTE,
        unshaped=UNSHAPED,
        arranged=cylinder_weights,
        grid=cylinder_grid,
        unlabeled_head=HEAD,
        intensity={SEMANTICKITTI.name: 1.0, NUSCENES.name: 1.0},
        as_ported=cylinder_as_published,
    ),
    'minkunet': Family(
        'minkunet',
        minkunet_names,
        minkunet_settings,
        torchsparse_weight,
        origin=-0.5,
        note=SPVNAS_NOTE,
        unused=(POINTS,),
        intensity={SEMANTICKITTI.name: 1.0},
        as_ported=unet_as_spvnas,
    ),
    'spvcnn': Family(
        'spvcnn',
        spvcnn_names,
        spvcnn_settings,
        torchsparse_weight,
        origin=-0.5,
        note=SPVNAS_NOTE,
        intensity={SEMANTICKITTI.name: 1.0},
        as_ported=unet_as_spvnas,
    ),
}
BEFORE_1_5_2 = {
    'ptv3': replace(
        FAMILIES['ptv3'],
        settings=ptv3_settings_before_1_5_2,
        structure="that of Pointcept before 1.5.2: the convolution of every block but a level's "
        'first sees what the MLP before it adds, not the sum',
    )
}

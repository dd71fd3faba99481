# SPDX-License-Identifier: Apache-2.0
"""How published code bases name the tensors of their networks, and ours in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
import re
from typing import Any

from torch import Tensor

from lidar_kd.errors import BundleError
from training.importing.cylinder import (
    cylinder_grid,
    cylinder_names,
    cylinder_settings,
    cylinder_weights,
    HEAD,
    NOTE,
    UNSHAPED,
)
from training.importing.litept import litept_names, litept_settings
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

POINTCEPT_NOTE = (
    'trained on voxels counted from the lowest of the scan, with the features of one point per '
    'voxel; here counted from the sensor, with their mean'
)

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


# --- PTv3 as Pointcept names it: levels count from the finest on both ways ---

_PTV3_UNITS = {
    'cpe.0': 'conv',
    'cpe.1': 'position.0',
    'cpe.2': 'position.1',
    'norm1.0': 'attention_norm',
    'attn.qkv': 'attention.qkv',
    'attn.proj': 'attention.proj',
    'norm2.0': 'mlp_norm',
    'mlp.0.fc1': 'mlp.0',
    'mlp.0.fc2': 'mlp.2',
}
_PTV3_PARTS = {
    'proj': 'proj.linear',
    'norm.0': 'proj.norm',
    'proj.0': 'proj.linear',
    'proj.1': 'proj.norm',
    'proj_skip.0': 'skip.linear',
    'proj_skip.1': 'skip.norm',
}
_PTV3_HEADS = {'enc': (2, 4, 8, 16, 32), 'dec': (4, 4, 8, 16)}  # no tensor's shape says them


def ptv3_names(state: StateDict) -> dict[str, str]:
    coders = {'enc': 'encoder', 'dec': 'decoder'}
    units = '|'.join(map(re.escape, _PTV3_UNITS))
    rules: Rules = {
        r'embedding\.stem\.(conv|norm)\.(\w+)': lambda unit, leaf: f'stem.{unit}.{leaf}',
        rf'(enc|dec)\.\1(\d+)\.block(\d+)\.({units})\.(\w+)': (
            lambda kind, level, block, unit, leaf: (
                f'{coders[kind]}.{level}.{block}.{_PTV3_UNITS[unit]}.{leaf}'
            )
        ),
        r'enc\.enc(\d+)\.down\.(proj|norm\.0)\.(\w+)': lambda level, part, leaf: (
            f'pools.{int(level) - 1}.{_PTV3_PARTS[part]}.{leaf}'
        ),
        r'dec\.dec(\d+)\.up\.(proj\.[01]|proj_skip\.[01])\.(\w+)': lambda level, part, leaf: (
            f'unpools.{level}.{_PTV3_PARTS[part]}.{leaf}'
        ),
        r'seg_head\.(\w+)': lambda leaf: f'head.{leaf}',
    }
    return renamed(state, rules)


def ptv3_settings(state: StateDict) -> dict[str, Any]:
    """From the shapes, and what they do not say from the stored settings or the paper."""
    config = getattr(state, 'config', {})
    _check_ptv3(config)
    settings: dict[str, Any] = {
        'classes': rows_of(state, 'seg_head.weight'),
        'in_channels': state['embedding.stem.conv.weight'].shape[-1],
    }
    for kind, coder in (('enc', 'encoder'), ('dec', 'decoder')):
        levels = count_of(state, rf'{kind}\.{kind}(\d+)\..*')
        stages = [f'{kind}.{kind}{level}' for level in range(levels)]
        depths = [count_of(state, rf'{re.escape(s)}\.block(\d+)\..*') for s in stages]
        widths = [len(state[f'{stage}.block0.norm1.0.weight']) for stage in stages]
        heads = config.get(f'{kind}_num_head', _PTV3_HEADS[kind][:levels])
        settings |= {
            f'{coder}_depths': depths,
            f'{coder}_channels': widths,
            f'{coder}_heads': list(heads),
        }
    for key, name in (('patch', 'enc_patch_size'), ('decoder_patch', 'dec_patch_size')):
        if name in config:
            settings[key] = list(config[name])
    if 'order' in config:
        orders = config['order']
        settings['orders'] = [orders] if isinstance(orders, str) else orders
    hidden, width = state['enc.enc0.block0.mlp.0.fc1.weight'].shape
    if hidden != 4 * width:
        settings['mlp_ratio'] = hidden / width
    return settings


def ptv3_settings_before_1_5_2(state: StateDict) -> dict[str, Any]:
    """There the sum behind an MLP never reached the sparse tensor, which kept the MLP's answer."""
    return {**ptv3_settings(state), 'conv_sees_mlp': True}


def _check_ptv3(config: Mapping[str, Any]) -> None:
    strides = {*config.get('stride', ())} - {2}
    if strides:
        raise BundleError(f'strides {", ".join(map(str, strides))}: only 2 is known of a ptv3')
    if not config.get('pre_norm', True):
        raise BundleError('pre_norm False: only True is known of a ptv3')
    if config.get('qk_scale'):
        raise BundleError(f'qk_scale {config["qk_scale"]}: only None is known of a ptv3')


def _unchanged(_name: str, tensor: Tensor) -> Tensor:
    return tensor


TRANSFORMER = {
    'enc_patch_size': 'patch',
    'dec_patch_size': 'decoder patch',
    'enc_num_head': 'heads',
    'dec_num_head': 'decoder heads',
    'order': 'orders',
}
LITEPT = {
    'enc_patch_size': 'patch',
    'enc_num_head': 'heads',
    'enc_rope_freq': 'rope base',
    'order': 'orders',
}
FAMILIES = {
    'ptv3': Family(
        'ptv3',
        ptv3_names,
        ptv3_settings,
        _unchanged,
        note=POINTCEPT_NOTE,
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
        unshaped=LITEPT,
    ),
    'spunet': Family('spunet', spunet_names, spunet_settings, spconv_weight, note=POINTCEPT_NOTE),
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
    ),
    'minkunet': Family(
        'minkunet',
        minkunet_names,
        minkunet_settings,
        torchsparse_weight,
        origin=-0.5,
        note=SPVNAS_NOTE,
        unused=(POINTS,),
    ),
    'spvcnn': Family(
        'spvcnn',
        spvcnn_names,
        spvcnn_settings,
        torchsparse_weight,
        origin=-0.5,
        note=SPVNAS_NOTE,
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

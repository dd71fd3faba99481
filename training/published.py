# SPDX-License-Identifier: Apache-2.0
"""How published code bases name the tensors of their networks, and ours in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
import re
from typing import Any

from torch import Tensor

from lidar_kd.errors import BundleError

StateDict = Mapping[str, Tensor]
Rules = dict[str, Callable[..., str]]  # pattern of their name -> ours from its groups


class Checkpoint(dict[str, Tensor]):
    """Tensors by name, and the constructor's settings where the file says them."""

    config: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Family:
    """How the checkpoints of one published code base name things."""

    model: str
    names: Callable[[StateDict], dict[str, str]]  # their name -> ours; unknown ones left out
    settings: Callable[[StateDict], dict[str, Any]]  # of build_model, read off the shapes
    weight: Callable[[Tensor], Tensor]  # in our layout


# --- SpUNet as Pointcept names it: levels count from the finest on both ways ---

_SPUNET_UNITS = {
    'conv1': 'first.conv',
    'bn1': 'first.norm',
    'conv2': 'second.conv',
    'bn2': 'second.norm',
    'proj.0': 'shortcut.conv',
    'proj.1': 'shortcut.norm',
}
_LAYER = {'0': 'conv', '1': 'norm'}


def spunet_names(state: StateDict) -> dict[str, str]:
    stages = _count(state, r'down\.(\d+)\.0\.weight')

    def stage(kind: str, level: str) -> str:
        down = kind in ('down', 'enc')
        return f'downs.{level}' if down else f'ups.{stages - 1 - int(level)}'

    rules: Rules = {
        r'conv_input\.([01])\.(\w+)': lambda unit, leaf: f'stem.{_LAYER[unit]}.{leaf}',
        r'(down|up)\.(\d+)\.([01])\.(\w+)': lambda kind, level, unit, leaf: (
            f'{stage(kind, level)}.{kind}.{_LAYER[unit]}.{leaf}'
        ),
        r'(enc|dec)\.(\d+)\.block(\d+)\.(conv[12]|bn[12]|proj\.[01])\.(\w+)': (
            lambda kind, level, block, unit, leaf: (
                f'{stage(kind, level)}.blocks.{block}.{_SPUNET_UNITS[unit]}.{leaf}'
            )
        ),
        r'final\.(\w+)': lambda leaf: f'head.{leaf}',
    }
    return _renamed(state, rules)


def spunet_settings(state: StateDict) -> dict[str, Any]:
    stages = _count(state, r'down\.(\d+)\.0\.weight')
    down = [('down', 'enc', level) for level in range(stages)]
    up = [('up', 'dec', level) for level in reversed(range(stages))]
    base_channels, *_, in_channels = state['conv_input.0.weight'].shape
    return {
        'classes': _rows(state, 'final.weight'),
        'in_channels': in_channels,
        'base_channels': base_channels,
        'channels': [len(state[f'{step}.{level}.0.weight']) for step, _, level in down + up],
        'layers': [
            _count(state, rf'{part}\.{level}\.block(\d+)\.conv1\.weight')
            for _, part, level in down + up
        ],
    }


def spconv_weight(tensor: Tensor) -> Tensor:
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
    return _renamed(state, rules)


def ptv3_settings(state: StateDict) -> dict[str, Any]:
    """From the shapes, and what they do not say from the stored settings or the paper."""
    config = getattr(state, 'config', {})
    strides = {*config.get('stride', ())} - {2}
    if strides:
        raise BundleError(f'strides {", ".join(map(str, strides))}: only 2 is known of a ptv3')
    settings: dict[str, Any] = {
        'classes': _rows(state, 'seg_head.weight'),
        'in_channels': state['embedding.stem.conv.weight'].shape[-1],
    }
    for kind, coder in (('enc', 'encoder'), ('dec', 'decoder')):
        levels = _count(state, rf'{kind}\.{kind}(\d+)\..*')
        stages = [f'{kind}.{kind}{level}' for level in range(levels)]
        depths = [_count(state, rf'{re.escape(s)}\.block(\d+)\..*') for s in stages]
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


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


FAMILIES = {
    'ptv3': Family('ptv3', ptv3_names, ptv3_settings, _unchanged),
    'spunet': Family('spunet', spunet_names, spunet_settings, spconv_weight),
}


def _renamed(names: Iterable[str], rules: Rules) -> dict[str, str]:
    """their name -> ours, by the rule whose pattern matches the whole name."""
    found = {}
    for name in names:
        for pattern, ours in rules.items():
            if match := re.fullmatch(pattern, name):
                found[name] = ours(*match.groups())
    return found


def _rows(state: StateDict, name: str) -> int | None:
    return len(state[name]) if name in state else None


def _count(names: Iterable[str], pattern: str) -> int:
    """How many numbers the pattern's group takes, counted up to the largest."""
    matches = (re.fullmatch(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in matches if match), default=0)

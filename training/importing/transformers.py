# SPDX-License-Identifier: Apache-2.0
"""PTv3 and LitePT as Pointcept and LitePT's own repository name them: levels count from the finest
on both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
from typing import Any

from lidar_kd.errors import BundleError
from training.importing.renaming import count_of, renamed, rows_of, Rules, StateDict

CODERS = {'enc': 'encoder', 'dec': 'decoder'}
_ATTENTION = {
    'norm1.0': 'attention_norm',
    'attn.qkv': 'attention.qkv',
    'attn.proj': 'attention.proj',
    'norm2.0': 'mlp_norm',
    'mlp.0.fc1': 'mlp.0',
    'mlp.0.fc2': 'mlp.2',
}
_PTV3 = {'cpe.0': 'conv', 'cpe.1': 'position.0', 'cpe.2': 'position.1', **_ATTENTION}
_LITEPT = {
    'conv.0': 'conv',
    'conv.1': 'linear',
    'conv.2': 'norm',
    'norm0.0': 'norm',
    **_ATTENTION,
}
_PARTS = {
    'proj': 'proj.linear',
    'norm.0': 'proj.norm',
    'proj.0': 'proj.linear',
    'proj.1': 'proj.norm',
    'proj_skip.0': 'skip.linear',
    'proj_skip.1': 'skip.norm',
}
_PTV3_HEADS = {'enc': (2, 4, 8, 16, 32), 'dec': (4, 4, 8, 16)}  # no tensor's shape says them
# of the settings that a file or the user must give: no tensor's shape says them
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


def ptv3_names(state: StateDict) -> dict[str, str]:
    return _transformer_names(state, _PTV3)


def litept_names(state: StateDict) -> dict[str, str]:
    return _transformer_names(state, _LITEPT)


def _transformer_names(state: StateDict, parts: Mapping[str, str]) -> dict[str, str]:
    """parts: of a block."""
    units = '|'.join(map(re.escape, parts))
    rules: Rules = {
        r'embedding\.stem\.(conv|norm)\.(\w+)': lambda unit, leaf: f'stem.{unit}.{leaf}',
        rf'(enc|dec)\.\1(\d+)\.block(\d+)\.({units})\.(\w+)': (
            lambda kind, level, block, unit, leaf: (
                f'{CODERS[kind]}.{level}.{block}.{parts[unit]}.{leaf}'
            )
        ),
        r'enc\.enc(\d+)\.down\.(proj|norm\.0)\.(\w+)': lambda level, part, leaf: (
            f'pools.{int(level) - 1}.{_PARTS[part]}.{leaf}'
        ),
        r'dec\.dec(\d+)\.up\.(proj\.[01]|proj_skip\.[01])\.(\w+)': lambda level, part, leaf: (
            f'unpools.{level}.{_PARTS[part]}.{leaf}'
        ),
        r'seg_head\.(\w+)': lambda leaf: f'head.{leaf}',
    }
    return renamed(state, rules)


def ptv3_settings(state: StateDict) -> dict[str, Any]:
    """From the shapes, and what they do not say from the stored settings or the paper."""
    config = getattr(state, 'config', {})
    _check_known(config, 'ptv3')
    settings: dict[str, Any] = {
        'classes': rows_of(state, 'seg_head.weight'),
        'in_channels': state['embedding.stem.conv.weight'].shape[-1],
    }
    for kind, coder in CODERS.items():
        levels = count_of(state, rf'{kind}\.{kind}(\d+)\..*')
        stages = [f'{kind}.{kind}{level}' for level in range(levels)]
        widths = [len(state[f'{stage}.block0.norm1.0.weight']) for stage in stages]
        heads = config.get(f'{kind}_num_head', _PTV3_HEADS[kind][:levels])
        settings |= {
            f'{coder}_depths': _depths(state, kind, levels),
            f'{coder}_channels': widths,
            f'{coder}_heads': _numbers(heads, f'{kind}_num_head'),
        }
    for key, name in (('patch', 'enc_patch_size'), ('decoder_patch', 'dec_patch_size')):
        if name in config:
            settings[key] = _numbers(config[name], name)
    return settings | _orders(config) | _mlp_ratio(state)


def ptv3_settings_before_1_5_2(state: StateDict) -> dict[str, Any]:
    """There the sum behind an MLP never reached the sparse tensor, which kept the MLP's answer."""
    return {**ptv3_settings(state), 'conv_sees_mlp': True}


def litept_settings(state: StateDict) -> dict[str, Any]:
    """From the shapes, and what they do not say from the stored settings."""
    config = getattr(state, 'config', {})
    _check_known(config, 'litept')
    stem = state['embedding.stem.conv.weight']
    levels = count_of(state, r'dec\.dec(\d+)\..*')
    widths = [len(state[f'enc.enc{k + 1}.down.proj.weight']) for k in range(levels)]
    attends = (re.match(r'enc\.enc(\d+)\.block\d+\.attn\.', name) for name in state)
    settings: dict[str, Any] = {
        'classes': rows_of(state, 'seg_head.weight'),
        'in_channels': stem.shape[-1],
        'encoder_depths': _depths(state, 'enc', levels + 1),
        'encoder_channels': [len(stem), *widths],
        'decoder_depths': _depths(state, 'dec', levels),
        'decoder_channels': [len(state[f'dec.dec{k}.up.proj.0.weight']) for k in range(levels)],
        'attention_from': min((int(m[1]) for m in attends if m), default=levels + 1),
    }
    for kind, coder in CODERS.items():
        if f'{kind}_num_head' in config:
            settings[f'{coder}_heads'] = _numbers(config[f'{kind}_num_head'], f'{kind}_num_head')
    first = settings['attention_from']
    for key, word in (('patch', 'patch_size'), ('rope_base', 'rope_freq')):
        coarse = _numbers(config.get(f'enc_{word}', []), f'enc_{word}')[first:]
        if any(re.match(r'dec\.dec\d+\.block\d+\.attn\.', name) for name in state):
            coarse += _numbers(config.get(f'dec_{word}', []), f'dec_{word}')[first:]
        if len({*coarse}) > 1:
            raise BundleError(f'{word}: one for all levels that attend is known of a litept')
        if coarse:
            settings[key] = coarse[0]
    return settings | _orders(config) | _mlp_ratio(state)


def _depths(state: StateDict, kind: str, levels: int) -> list[int]:
    return [count_of(state, rf'{kind}\.{kind}{k}\.block(\d+)\..*') for k in range(levels)]


def _numbers(value: object, key: str) -> list[Any]:
    """One per level."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise BundleError(f'{key}: give a list, one number per level: --set "{key}=[64, 64]"')
    return list(value)


def _orders(config: Mapping[str, Any]) -> dict[str, Any]:
    orders = config.get('order')
    if orders is None:
        return {}
    return {'orders': [orders] if isinstance(orders, str) else list(orders)}


def _mlp_ratio(state: StateDict) -> dict[str, float]:
    """Where it is not 4."""
    wide = [tensor.shape for name, tensor in state.items() if name.endswith('.mlp.0.fc1.weight')]
    if not wide or wide[0][0] == 4 * wide[0][1]:
        return {}
    return {'mlp_ratio': wide[0][0] / wide[0][1]}


def _check_known(config: Mapping[str, Any], model: str) -> None:
    strides = {*config.get('stride', ())} - {2}
    if strides:
        raise BundleError(f'strides {", ".join(map(str, strides))}: only 2 is known of a {model}')
    if not config.get('pre_norm', True):
        raise BundleError(f'pre_norm False: only True is known of a {model}')
    if config.get('qk_scale'):
        raise BundleError(f'qk_scale {config["qk_scale"]}: only None is known of a {model}')

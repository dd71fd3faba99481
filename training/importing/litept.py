# SPDX-License-Identifier: Apache-2.0
"""LitePT as its own repository and Pointcept name it: levels count from the finest."""

from __future__ import annotations

import re
from typing import Any

from training.importing.renaming import count_of, renamed, rows_of, Rules, StateDict

_UNITS = {
    'conv.0': 'conv',
    'conv.1': 'linear',
    'conv.2': 'norm',
    'norm0.0': 'norm',
    'norm1.0': 'attention_norm',
    'attn.qkv': 'attention.qkv',
    'attn.proj': 'attention.proj',
    'norm2.0': 'mlp_norm',
    'mlp.0.fc1': 'mlp.0',
    'mlp.0.fc2': 'mlp.2',
}
_PARTS = {
    'proj': 'proj.linear',
    'norm.0': 'proj.norm',
    'proj.0': 'proj.linear',
    'proj.1': 'proj.norm',
    'proj_skip.0': 'skip.linear',
    'proj_skip.1': 'skip.norm',
}
CODERS = {'enc': 'encoder', 'dec': 'decoder'}
# of the settings that a file or the user must give: no tensor's shape says them
NAMED = {'enc_num_head': 'encoder_heads', 'dec_num_head': 'decoder_heads', 'order': 'orders'}


def litept_names(state: StateDict) -> dict[str, str]:
    units = '|'.join(map(re.escape, _UNITS))
    rules: Rules = {
        r'embedding\.stem\.(conv|norm)\.(\w+)': lambda unit, leaf: f'stem.{unit}.{leaf}',
        rf'(enc|dec)\.\1(\d+)\.block(\d+)\.({units})\.(\w+)': (
            lambda kind, level, block, unit, leaf: (
                f'{CODERS[kind]}.{level}.{block}.{_UNITS[unit]}.{leaf}'
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


def litept_settings(state: StateDict) -> dict[str, Any]:
    """From the shapes, and what they do not say from the stored settings."""
    config = getattr(state, 'config', {})
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
    settings |= {ours: config[theirs] for theirs, ours in NAMED.items() if theirs in config}
    if 'enc_patch_size' in config:
        settings['patch'] = config['enc_patch_size'][-1]
    if 'enc_rope_freq' in config:
        settings['rope_base'] = config['enc_rope_freq'][-1]
    return settings


def _depths(state: StateDict, kind: str, levels: int) -> list[int]:
    return [count_of(state, rf'{kind}\.{kind}{k}\.block(\d+)\..*') for k in range(levels)]

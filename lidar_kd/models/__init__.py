# SPDX-License-Identifier: Apache-2.0
"""The networks by name, and presets of their settings."""

from __future__ import annotations

from typing import Any

from torch import nn

from lidar_kd.errors import ConfigError
from lidar_kd.models.cylinder3d import Cylinder3D
from lidar_kd.models.litept import LitePT
from lidar_kd.models.minkunet import MinkUNet
from lidar_kd.models.output import Output
from lidar_kd.models.ptv3 import PTv3
from lidar_kd.models.spunet import SpUNet
from lidar_kd.models.spvcnn import SPVCNN

MODELS: dict[str, type[nn.Module]] = {
    'minkunet': MinkUNet,
    'spvcnn': SPVCNN,
    'spunet': SpUNet,
    'ptv3': PTv3,
    'litept': LitePT,
    'cylinder3d': Cylinder3D,
}

# name -> (model, settings); the number of classes comes from the label table
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    'minkunet': ('minkunet', {'width': 1.0}),
    'minkunet_half': ('minkunet', {'width': 0.5}),
    'minkunet_064': ('minkunet', {'width': 0.64}),
    'minkunet_quarter': ('minkunet', {'width': 0.25}),
    'spvcnn': ('spvcnn', {'width': 1.0}),
    'spvcnn_064': ('spvcnn', {'width': 0.64}),
    'spvcnn_half': ('spvcnn', {'width': 0.5}),
    'spvcnn_quarter': ('spvcnn', {'width': 0.25}),
    'spunet': ('spunet', {}),
    'ptv3_quarter': (
        'ptv3',
        {
            'encoder_channels': (8, 16, 32, 64, 128),
            'encoder_heads': (1, 2, 4, 8, 16),  # a fused kernel wants 8 channels per head
            'decoder_channels': (16, 16, 32, 64),
            'decoder_heads': (2, 2, 4, 8),
        },
    ),
    'ptv3_half': (
        'ptv3',
        {
            'encoder_channels': (16, 32, 64, 128, 256),
            'decoder_channels': (32, 32, 64, 128),
        },
    ),
    'ptv3_base': ('ptv3', {}),
    'ptv3_103m': (
        'ptv3',
        {
            'encoder_channels': (48, 96, 192, 384, 768),
            'decoder_channels': (96, 96, 192, 384),
        },
    ),
    'litept_s': ('litept', {}),
    'litept_b': (
        'litept',
        {
            'encoder_depths': (3, 3, 3, 12, 3),
            'encoder_channels': (54, 108, 216, 432, 576),
            'encoder_heads': (3, 6, 12, 24, 32),
            'decoder_channels': (72, 108, 216, 432),
        },
    ),
    'litept_l': (
        'litept',
        {
            'encoder_depths': (3, 3, 3, 12, 3),
            'encoder_channels': (72, 144, 288, 576, 864),
            'encoder_heads': (4, 8, 16, 32, 48),
            'decoder_channels': (72, 144, 288, 576),
        },
    ),
    'cylinder3d': ('cylinder3d', {}),
    'cylinder3d_half': ('cylinder3d', {'width': 16, 'point_channels': 128}),
    'cylinder3d_quarter': (
        'cylinder3d',
        {'width': 8, 'voxel_channels': 8, 'point_channels': 64, 'point_hidden': (16, 32, 64)},
    ),
}

MOST_STAGES = 32  # in a list of settings; a damaged one must not build layers for hours

# what Python and torch raise where settings make no network: of the wrong type, negative, infinite
UNBUILDABLE = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError)


def build_model(name: str, **settings: Any) -> nn.Module:
    """A network with random weights; `name` is a model, or a preset that settings override."""
    model, preset = PRESETS.get(name, (name, {}))
    if model not in MODELS:
        known = ', '.join(sorted({*MODELS, *PRESETS}))
        raise ConfigError(f'model: unknown network {name!r}: choose one of {known}')
    for key, value in settings.items():
        if isinstance(value, list | tuple) and len(value) > MOST_STAGES:
            raise ConfigError(
                f'model {name}: {key} has {len(value):,} entries: at most {MOST_STAGES} are '
                'possible'
            )
    try:
        return MODELS[model](**{**preset, **settings})
    except ConfigError:
        raise
    except UNBUILDABLE as error:
        sentence = str(error).partition('\n')[0].rstrip('.')
        raise ConfigError(f'model {name}: its settings make no network: {sentence}') from error


__all__ = ['MODELS', 'PRESETS', 'Output', 'build_model']

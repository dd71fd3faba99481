# SPDX-License-Identifier: Apache-2.0
"""mmdet3d's ports of MinkUNet, SPVCNN and Cylinder3D: their names and keys in those of the code
that they were ported from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from training.importing.renaming import Checkpoint, renamed, Rules, StateDict

HEAD = 'decode_head.conv_seg.'
KEYS = ('voxel_size', 'grid_shape', 'point_cloud_range', 'class_names')  # of its configurations
_PAIRS = {
    'conv0_0': 'conv1',
    'bn0_0': 'bn0',
    'conv0_1': 'conv1_2',
    'bn0_1': 'bn0_2',
    'conv1_0': 'conv2',
    'bn1_0': 'bn1',
    'conv1_1': 'conv3',
    'bn1_1': 'bn2',
    'pool': 'pool',
}
_UPS = {'trans_conv': 'trans_dilao'}  # the others are called alike
_LINES = {
    'conv1': 'conv1',
    'bn1': 'bn0',
    'conv2': 'conv1_2',
    'bn2': 'bn0_2',
    'conv3': 'conv1_3',
    'bn3': 'bn0_3',
}
_SEG = 'cylinder_3d_spconv_seg'
# of a residual block: with torchsparse all in `net`, with spconv each for itself
_UNITS = {'conv1': 'net.0', 'bn1': 'net.1', 'conv2': 'net.3', 'bn2': 'net.4'}


def unet_as_spvnas(state: Checkpoint) -> Checkpoint:
    """MinkUNet and SPVCNN, with either of the two engines that count a kernel's cells as we do."""

    def unit(name: str) -> str:
        return _UNITS.get(name, name)

    rules: Rules = {
        r'conv_input\.([01])\.(?:net\.)?([01])\.(\w+)': lambda layer, part, leaf: (
            f'stem.{3 * int(layer) + int(part)}.{leaf}'
        ),
        r'encoder\.(\d)\.0\.(?:net\.)?([01])\.(\w+)': lambda stage, part, leaf: (
            f'stage{int(stage) + 1}.0.net.{part}.{leaf}'
        ),
        r'encoder\.(\d)\.([1-9]\d*)\.(net\.\d|downsample\.\d|conv[12]|bn[12])\.(\w+)': (
            lambda stage, block, part, leaf: f'stage{int(stage) + 1}.{block}.{unit(part)}.{leaf}'
        ),
        r'decoder\.(\d)\.0\.(?:net\.)?([01])\.(\w+)': lambda stage, part, leaf: (
            f'up{int(stage) + 1}.0.net.{part}.{leaf}'
        ),
        r'decoder\.(\d)\.1\.(\d+)\.(net\.\d|downsample\.\d|conv[12]|bn[12])\.(\w+)': (
            lambda stage, block, part, leaf: f'up{int(stage) + 1}.1.{block}.{unit(part)}.{leaf}'
        ),
        r'decode_head\.conv_seg\.(\w+)': lambda leaf: f'classifier.0.{leaf}',
    }
    return _respelt(Checkpoint(_kernels(state)), rules, config=state.config)


def cylinder_as_published(state: Checkpoint) -> Checkpoint:
    """Here `unlabeled` is the last class, there the first."""
    depth = len({name.split('.')[1] for name in state if name.startswith('up_block_list.')})
    rules: Rules = {
        r'voxel_encoder\.pre_norm\.(\w+)': (
            lambda leaf: f'cylinder_3d_generator.PPmodel.0.{leaf}'
        ),
        r'voxel_encoder\.vfe_layers\.([0-2])\.([01])\.(\w+)': lambda layer, part, leaf: (
            f'cylinder_3d_generator.PPmodel.{3 * int(layer) + 1 + int(part)}.{leaf}'
        ),
        r'voxel_encoder\.vfe_layers\.3\.(\w+)': (
            lambda leaf: f'cylinder_3d_generator.PPmodel.10.{leaf}'
        ),
        r'voxel_encoder\.compression_layers\.0\.(\w+)': (
            lambda leaf: f'cylinder_3d_generator.fea_compression.0.{leaf}'
        ),
        rf'down_context\.({"|".join(_PAIRS)})\.(\w+)': (
            lambda part, leaf: f'{_SEG}.downCntx.{_PAIRS[part]}.{leaf}'
        ),
        rf'down_block_list\.(\d)\.({"|".join(_PAIRS)})\.(\w+)': lambda block, part, leaf: (
            f'{_SEG}.resBlock{int(block) + 2}.{_PAIRS[part]}.{leaf}'
        ),
        r'up_block_list\.(\d)\.(\w+)\.(\w+)': lambda block, part, leaf: (
            f'{_SEG}.upBlock{depth - 1 - int(block)}.{_UPS.get(part, part)}.{leaf}'
        ),
        rf'ddcm\.({"|".join(_LINES)})\.(\w+)': (
            lambda part, leaf: f'{_SEG}.ReconNet.{_LINES[part]}.{leaf}'
        ),
        r'decode_head\.conv_seg\.(\w+)': lambda leaf: f'{_SEG}.logits.{leaf}',
    }
    last_first = {k: t.roll(1, -1) for k, t in state.items() if k.startswith(HEAD)}
    return _respelt(Checkpoint({**state, **last_first}), rules, config=state.config)


def _kernels(state: StateDict) -> dict[str, Tensor]:
    """spconv 2's weights in the names and the layout of torchsparse, which counts the cells of an
    odd kernel with x fastest; it reads the memory of a kernel of one cell as (C_in, C_out)."""
    found = {}
    for name, tensor in state.items():
        if tensor.ndim != 5:
            found[name] = tensor
            continue
        c_out, size, *_, c_in = tensor.shape
        axes = (3, 2, 1, 4, 0) if size % 2 else (1, 2, 3, 4, 0)
        cells = tensor.permute(axes).reshape(-1, c_in, c_out)
        kernel = tensor.reshape(c_in, c_out) if size == 1 else cells
        found[name.removesuffix('weight') + 'kernel'] = kernel
    return found


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its keys in the names of the others."""
    found = {key: value for key, value in config.items() if key not in KEYS}
    if 'class_names' in config:
        found.setdefault('names', config['class_names'])
    if 'voxel_size' in config:
        found['grid_size'] = config['voxel_size']
    if 'grid_shape' in config:
        found['output_shape'] = config['grid_shape']
    if 'grid_shape' in config and 'point_cloud_range' in config:
        bounds = config['point_cloud_range']
        found |= {'min_volume_space': bounds[:3], 'max_volume_space': bounds[3:]}
    return found


def is_mmdet3d(state: StateDict) -> bool:
    return any(name.startswith(HEAD) for name in state)


def _respelt(state: StateDict, rules: Rules, *, config: Mapping[str, Any]) -> Checkpoint:
    """A name that no rule knows stays, to be refused by it."""
    names = renamed(state, rules)
    respelt = Checkpoint((names.get(name, name), tensor) for name, tensor in state.items())
    respelt.config = config
    return respelt

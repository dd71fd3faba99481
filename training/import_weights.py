# SPDX-License-Identifier: Apache-2.0
"""Turns a published checkpoint into a bundle: names change, no weight is trained or lost.

python training/import_weights.py model_best.pth -o teacher.safetensors \
    --network spunet --labels nuscenes --voxel-m 0.05
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path
import pickle
import re
import sys
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402
from safetensors import safe_open, SafetensorError  # noqa: E402
import torch  # noqa: E402
from torch import nn, Tensor  # noqa: E402

from lidar_kd.bundle import BundleSpec, IntensitySpec, ModelSpec, save_bundle  # noqa: E402
from lidar_kd.console import Console  # noqa: E402
from lidar_kd.errors import BundleError, LidarKdError  # noqa: E402
from lidar_kd.labels import table  # noqa: E402
from lidar_kd.models import build_model  # noqa: E402
from lidar_kd.voxels import CartesianGrid  # noqa: E402

StateDict = Mapping[str, Tensor]
Rules = dict[str, Callable[..., str]]  # pattern of their name -> ours from its groups
NOT_STORED = 'num_batches_tracked'  # counts training steps
SHOWN = 4  # names in an error


@dataclass(frozen=True)
class Family:
    """How the checkpoints of one published code base name things."""

    model: str
    names: Callable[[StateDict], dict[str, str]]  # their name -> ours; unknown ones left out
    settings: Callable[[StateDict], dict[str, Any]]  # of build_model, read off the shapes
    weight: Callable[[Tensor], Tensor]  # in our layout


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    console = Console()
    try:
        import_weights(options, console)
    except LidarKdError as error:
        return console.fail(error)
    return 0


def import_weights(options: argparse.Namespace, console: Console) -> None:
    family = FAMILIES[options.network]
    state = read_checkpoint(options.checkpoint)
    names = family.names(state)
    rows = [(name, names.get(name, '-'), _shape(state[name])) for name in state]
    console.table(str(options.checkpoint), ('checkpoint', 'ours', 'shape'), rows)
    model = load(state, family, options.checkpoint)
    settings = family.settings(state)
    classes, labels = settings.pop('classes'), table(options.labels)
    if classes != labels.num_classes:
        raise BundleError(
            f'{options.checkpoint}: has {classes} classes, the label table {labels.name} '
            f'{labels.num_classes}: choose its own with --labels'
        )
    digest = hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
    spec = BundleSpec(
        model=ModelSpec(name=family.model, settings=settings),
        grid=CartesianGrid(voxel_m=options.voxel_m),
        intensity=IntensitySpec(scale=options.intensity_scale),
        labels=labels,
        provenance={'imported_from': options.checkpoint.name, 'sha256': digest},
    )
    save_bundle(options.output, model, spec)
    count = sum(parameter.numel() for parameter in model.parameters())
    console.line(f'{options.output}: {family.model}, {count:,} parameters, {settings}')


def load(state: StateDict, family: Family, source: object = 'checkpoint') -> nn.Module:
    """The network with every tensor of the checkpoint in its place, or a sentence why not."""
    names = family.names(state)
    try:
        model = build_model(family.model, **family.settings(state))
    except KeyError as error:
        raise BundleError(
            f'{source}: no {family.model} checkpoint, {error} is missing: choose another --network'
        ) from None
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith(NOT_STORED)}
    found = {names[name]: family.weight(state[name]) for name in state if name in names}
    problems = {
        'not known': [name for name in state if name not in names],
        'missing': sorted(expected.keys() - found.keys()),
        'without a place': sorted(found.keys() - expected.keys()),
        'of another shape': [
            f'{name} {_shape(found[name])} instead of {_shape(tensor)}'
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        detail = '; '.join(f'{len(n)} {kind}: {_list(n)}' for kind, n in problems.items() if n)
        raise BundleError(
            f'{source}: not loaded, the tensors are not those of a {family.model} ({detail}): '
            'choose another --network or a complete checkpoint'
        )
    model.load_state_dict(found, strict=False)  # the check above was the strict one
    return model.eval()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file, without prefixes and step counters."""
    try:
        state = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = ' '.join(str(error).split('\n')[0].split())
        raise BundleError(
            f'{path}: not a readable checkpoint ({reason}): pass a torch or safetensors file'
        ) from None
    return {name: tensor for name, tensor in state.items() if not name.endswith(NOT_STORED)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework='pt') as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    prefix = 'state_dict.'
    if any(name.startswith(prefix) for name in state):  # other tensors beside it: not weights
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return _unwrapped(state)


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Weights only: nothing in the file is run. Scores beside them are often numpy numbers."""
    scalar: Any = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        (scalar, 'numpy.core.multiarray.scalar'),
        scalar,
        np.dtype,
        np.dtypes.Float64DType,
    ]
    with torch.serialization.safe_globals(allowed):
        stored = torch.load(path, map_location='cpu', weights_only=True)
    for key in ('state_dict', 'model'):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict):
        raise BundleError(f'{path}: holds a {type(stored).__name__}, no weights by name')
    return _unwrapped({k: v for k, v in stored.items() if isinstance(v, Tensor)})


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what data-parallel training and a segmentation head put before every name."""
    return {
        name.removeprefix('module.').removeprefix('backbone.'): tensor
        for name, tensor in state.items()
    }


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
        'classes': len(state['final.weight']),
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


FAMILIES = {'spunet': Family('spunet', spunet_names, spunet_settings, spconv_weight)}


def _renamed(names: Iterable[str], rules: Rules) -> dict[str, str]:
    """their name -> ours, by the rule whose pattern matches the whole name."""
    found = {}
    for name in names:
        for pattern, ours in rules.items():
            if match := re.fullmatch(pattern, name):
                found[name] = ours(*match.groups())
    return found


def _count(names: Iterable[str], pattern: str) -> int:
    """How many numbers the pattern's group takes, counted up to the largest."""
    matches = (re.fullmatch(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _shape(tensor: Tensor) -> str:
    return ' x '.join(map(str, tensor.shape)) or 'scalar'


def _list(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + ', ...' * (len(names) > SHOWN)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('checkpoint', type=Path, metavar='CHECKPOINT', help='a .pth or .safetensors file')
    add('-o', '--output', type=Path, required=True, metavar='BUNDLE', help='the file to write')
    add('--network', required=True, choices=sorted(FAMILIES), help='whose names it uses')
    add('--labels', required=True, metavar='TABLE', help='semantickitti or nuscenes')
    add('--voxel-m', type=float, default=0.05, metavar='M', help='voxel size (default: 0.05)')
    add(
        '--intensity-scale',
        type=float,
        default=1.0,
        metavar='S',
        help='times the stored intensity gives what it was trained on (default: 1)',
    )
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Turns a published checkpoint into a bundle: names change, no weight is trained or lost.

python training/import_weights.py model_best.pth -o teacher.safetensors \
    --network spunet --labels nuscenes --voxel-m 0.05
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import hashlib
import json
from pathlib import Path
import pickle
import sys
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from safetensors import safe_open, SafetensorError
import torch
from torch import nn, Tensor

from lidar_kd.bundle import BundleSpec, IntensitySpec, ModelSpec, save_bundle
from lidar_kd.console import Console
from lidar_kd.errors import BundleError, LidarKdError
from lidar_kd.labels import ClassTable, NUSCENES, SEMANTICKITTI, table
from lidar_kd.models import build_model
from lidar_kd.segment import read_positive
from lidar_kd.voxels import CartesianGrid
from training.importing.pointcept import FAMILIES
from training.importing.renaming import Checkpoint, Family, StateDict

NOT_STORED = 'num_batches_tracked'  # counts training steps
SHOWN = 4  # names in an error
UNREADABLE = (
    OSError,
    SafetensorError,
    RuntimeError,
    EOFError,
    json.JSONDecodeError,
    pickle.UnpicklingError,
)
VOXEL_M = 0.05  # where neither the checkpoint nor the user says it
INTENSITY_SCALES = {NUSCENES.name: 1 / 255}  # of stored values to 0..1; others are stored so


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
    rows = [(name, names.get(name, 'not known'), _shape(state[name])) for name in state]
    console.table(str(options.checkpoint), ('checkpoint', 'ours', 'shape'), rows)
    labels = choose_labels(state, family, options)
    model = load(state, family, options.checkpoint, partial=labels if options.partial else None)
    settings = settings_of(state, family, options.checkpoint)
    settings.pop('classes')
    digest = hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
    provenance = {'imported_from': options.checkpoint.name, 'sha256': digest}
    if family.note:
        provenance['differences'] = family.note
    voxel_m = options.voxel_m or state.config.get('grid_size', VOXEL_M)
    scale = options.intensity_scale or INTENSITY_SCALES.get(labels.name, 1.0)
    spec = BundleSpec(
        model=ModelSpec(name=family.model, settings=settings),
        grid=grid_of(family, voxel_m),
        intensity=IntensitySpec(scale=scale),
        labels=labels,
        provenance=provenance,
    )
    save_bundle(options.output, model, spec)
    count = sum(parameter.numel() for parameter in model.parameters())
    console.line(f'{options.output}: {family.model}, {count:,} parameters, {settings}')
    console.line(f'trained on intensity times {scale:g}; --intensity-scale changes it')


def grid_of(family: Family, voxel_m: float) -> CartesianGrid:
    corner = family.origin * voxel_m
    return CartesianGrid(
        voxel_m=voxel_m, origin_m=(corner, corner, corner) if family.origin else None
    )


def choose_labels(state: StateDict, family: Family, options: argparse.Namespace) -> ClassTable:
    """The table asked for, else the one with as many classes as the checkpoint has."""
    classes = settings_of(state, family, options.checkpoint)['classes']
    if options.labels is None:
        for labels in (SEMANTICKITTI, NUSCENES):
            if labels.num_classes == classes:
                return labels
        found = 'no head' if classes is None else f'{classes} classes'
        raise BundleError(f'{options.checkpoint}: has {found}: name its label table with --labels')
    labels = table(options.labels)
    if classes not in (None, labels.num_classes):
        raise BundleError(
            f'{options.checkpoint}: has {classes} classes, the label table {labels.name} '
            f'{labels.num_classes}: choose its own with --labels'
        )
    return labels


def settings_of(state: StateDict, family: Family, source: object) -> dict[str, Any]:
    try:
        return family.settings(state)
    except KeyError as error:
        raise BundleError(
            f'{source}: no {family.model} checkpoint, {error} is missing: choose another --network'
        ) from None
    except BundleError as error:
        raise BundleError(f'{source}: {error}') from None


def load(
    state: StateDict,
    family: Family,
    source: object = 'checkpoint',
    *,
    partial: ClassTable | None = None,
) -> nn.Module:
    """The network with every tensor of the checkpoint in its place, or a sentence why not.

    partial: what the checkpoint lacks (a head for these classes) stays random, and tensors that
    have no place are left out.
    """
    settings = settings_of(state, family, source)
    if partial is not None:
        settings['classes'] = partial.num_classes
    elif settings['classes'] is None:
        raise BundleError(
            f'{source}: has no head: pass --partial to keep a random one, and train it'
        )
    names, model = family.names(state), build_model(family.model, **settings)
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith(NOT_STORED)}
    found = {names[name]: family.weight(name, state[name]) for name in state if name in names}
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
    if problems['of another shape'] or (partial is None and any(problems.values())):
        detail = '; '.join(f'{len(n)} {kind}: {_list(n)}' for kind, n in problems.items() if n)
        raise BundleError(
            f'{source}: not loaded, the tensors are not those of a {family.model} ({detail}): '
            'choose another --network, a complete checkpoint, or --partial'
        )
    model.load_state_dict(found, strict=False)  # the check above was the strict one
    return model.eval()


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a .safetensors or torch file, without prefixes and step counters."""
    try:
        state = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
    except UNREADABLE as error:
        reason = ' '.join(str(error).split('\n')[0].split())
        raise BundleError(
            f'{path}: not a readable checkpoint ({reason}): pass a torch or safetensors file'
        ) from None
    for name in [name for name in state if name.endswith(NOT_STORED)]:
        del state[name]
    return state


def _read_safetensors(path: Path) -> Checkpoint:
    with safe_open(path, framework='pt') as file:
        config = (file.metadata() or {}).get('config', '{}')
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    prefix = 'state_dict.'
    if any(name.startswith(prefix) for name in state):  # other tensors beside it: not weights
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    checkpoint = _unwrapped(state)
    checkpoint.config = json.loads(config)
    return checkpoint


def _read_torch(path: Path) -> Checkpoint:
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


def _unwrapped(state: dict[str, Tensor]) -> Checkpoint:
    """Without what data-parallel training and a segmentation head put before every name."""
    return Checkpoint(
        (name.removeprefix('module.').removeprefix('backbone.'), tensor)
        for name, tensor in state.items()
    )


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
    add(
        '--labels',
        metavar='TABLE',
        help='semantickitti or nuscenes (default: by the number of classes)',
    )
    add(
        '--voxel-m',
        type=float,
        metavar='M',
        help=f'voxel size (default: what the file says, else {VOXEL_M})',
    )
    add(
        '--partial',
        action='store_true',
        help='keep random weights for what is missing, such as the head',
    )
    add(
        '--intensity-scale',
        type=read_positive,
        metavar='S',
        help='times the stored intensity gives what it was trained on '
        '(default: by the label table, nuscenes 1/255, others 1)',
    )
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Turns a published checkpoint into a bundle: names change, no weight is trained or lost.

python training/import_weights.py model_best.pth -o teacher.safetensors \
    --network spunet --labels nuscenes --voxel-m 0.05
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import hashlib
from pathlib import Path
import sys
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from torch import nn, Tensor

from lidar_kd.bundle import BundleSpec, IntensitySpec, ModelSpec, save_bundle
from lidar_kd.cli.console import Console
from lidar_kd.cli.segment import read_positive
from lidar_kd.errors import BundleError, LidarKdError
from lidar_kd.labels import ClassTable, NUSCENES, SEMANTICKITTI, table
from lidar_kd.models import build_model
from lidar_kd.voxels import CartesianGrid, CylinderGrid
from training.data.kinds import KINDS
from training.evaluate import evaluate, ScoringOptions
from training.importing.pointcept import BEFORE_1_5_2, FAMILIES
from training.importing.reading import NOT_STORED, read_checkpoint
from training.importing.renaming import Family, listed, StateDict
from training.importing.told import guesses, show_sources, told, without_unlabeled
from training.run.ranks import join_ranks

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
    family = choose_family(options)
    state = read_checkpoint(options.checkpoint)
    stored, said = state.config, told(options.config, options.set, family)
    state.config = {**stored, **said}
    state = without_unlabeled(state, family)
    guessed = guesses(state, family)
    if family.grid is None and not options.voxel_m and 'grid_size' not in state.config:
        guessed.append('voxel size (grid_size, or --voxel-m)')
    if guessed and not options.assume:
        raise BundleError(
            f'{options.checkpoint}: {", ".join(guessed)} would be guessed, as no shape tells '
            'them, and a wrong guess gives wrong logits: give them by --config FILE or '
            '--set key=value, or pass --assume'
        )
    names = family.names(state)
    for name in state:
        names.setdefault(name, 'not used' if name.startswith(family.unused) else 'not known')
    rows = [(name, names[name], _shape(tensor)) for name, tensor in state.items()]
    console.table(str(options.checkpoint), ('checkpoint', 'ours', 'shape'), rows)
    labels = choose_labels(state, family, options)
    model = load(state, family, options.checkpoint, partial=labels if options.partial else None)
    settings = settings_of(state, family, options.checkpoint)
    settings.pop('classes')
    digest = hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
    provenance = {'imported_from': options.checkpoint.name, 'sha256': digest}
    if guessed:
        provenance['assumed'] = ', '.join(guessed)
    if family.note:
        provenance['differences'] = family.note
    if family.structure:
        provenance['structure'] = family.structure
    show_sources(settings, guessed, (stored, said), family, console)
    voxel_m = options.voxel_m or state.config.get('grid_size', VOXEL_M)
    scale = options.intensity_scale or INTENSITY_SCALES.get(labels.name, 1.0)
    spec = BundleSpec(
        model=ModelSpec(name=family.model, settings=settings),
        grid=grid_of(family, state, voxel_m),
        intensity=IntensitySpec(scale=scale),
        labels=labels,
        provenance=provenance,
    )
    save_bundle(options.output, model, spec)
    count = sum(parameter.numel() for parameter in model.parameters())
    console.line(f'{options.output}: {family.model}, {count:,} parameters, {settings}')
    console.line(f'trained on intensity times {scale:g}; --intensity-scale changes it')
    if family.structure:
        console.line(f'its structure is {family.structure}')
    if options.check is not None:
        check_import(options, console)


def check_import(options: argparse.Namespace, console: Console) -> None:
    """A wrong import shows at once as a poor mean IoU."""
    scoring = ScoringOptions(
        data=options.check,
        kind=options.kind,
        sequences=options.sequences,
        scans=options.scans,
        bundle=options.output,
    )
    with join_ranks() as ranks:
        evaluate(scoring, ranks, console)


def choose_family(options: argparse.Namespace) -> Family:
    if not options.before_1_5_2:
        return FAMILIES[options.network]
    if options.network not in BEFORE_1_5_2:
        raise BundleError(
            f'--before-1-5-2: {options.network} has one structure only: leave it out, or choose '
            f'--network {" or ".join(BEFORE_1_5_2)}'
        )
    return BEFORE_1_5_2[options.network]


def grid_of(family: Family, state: StateDict, voxel_m: float) -> CartesianGrid | CylinderGrid:
    if family.grid is not None:
        return family.grid(state)
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
    tensors = family.arranged(state) if family.arranged else state
    found = {names[name]: family.weight(name, tensors[name]) for name in state if name in names}
    problems = {
        'not known': [
            name for name in state if name not in names and not name.startswith(family.unused)
        ],
        'missing': sorted(expected.keys() - found.keys()),
        'without a place': sorted(found.keys() - expected.keys()),
        'of another shape': [
            f'{name} {_shape(found[name])} instead of {_shape(tensor)}'
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    if problems['of another shape'] or (partial is None and any(problems.values())):
        detail = '; '.join(f'{len(n)} {kind}: {listed(n)}' for kind, n in problems.items() if n)
        raise BundleError(
            f'{source}: not loaded, the tensors are not those of a {family.model} ({detail}): '
            'choose another --network, a complete checkpoint, or --partial'
        )
    model.load_state_dict(found, strict=False)  # the check above was the strict one
    return model.eval()


def _shape(tensor: Tensor) -> str:
    return ' x '.join(map(str, tensor.shape)) or 'scalar'


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
        '--before-1-5-2',
        action='store_true',
        help='ptv3 weights trained with Pointcept 1.5.1 or older, as the released ones were',
    )
    add(
        '--config',
        type=Path,
        metavar='FILE',
        help='the .py, .yaml or .json that it was trained with: read as data, nothing is run',
    )
    add('--set', action='append', default=[], metavar='KEY=VALUE', help='as the file calls it')
    add(
        '--assume',
        action='store_true',
        help='go on with the defaults of what no shape tells, and note them in the bundle',
    )
    add(
        '--check',
        type=Path,
        metavar='ROOT',
        help='score the bundle at once on the labelled scans of this data set',
    )
    add('--kind', choices=KINDS, default='semantickitti', help='its layout (%(default)s)')
    add('--sequences', nargs='+', metavar='NAME', help='which of it (all)')
    add('--scans', type=int, metavar='N', help='so many of them (all)')
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

# SPDX-License-Identifier: Apache-2.0
"""Turns a published checkpoint into a bundle: names change, no weight is trained or lost.

python training/import_weights.py model_best.pth -o teacher.safetensors \
    --network spunet --labels nuscenes --voxel-m 0.05
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import hashlib
from pathlib import Path
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from torch import nn

from lidar_kd.bundle import BundleSpec, IntensitySpec, ModelSpec, save_bundle
from lidar_kd.cli.console import Console
from lidar_kd.cli.numbers import read_positive
from lidar_kd.errors import BundleError, LidarKdError
from lidar_kd.labels import ClassTable, NO_CLASSES, table
from lidar_kd.voxels import CartesianGrid, CylinderGrid
from training.data.kinds import KINDS
from training.evaluate import evaluate, ScoringOptions
from training.importing.classes import order_of, put_in_order, table_of
from training.importing.loading import load, settings_of, shape_of
from training.importing.mmdet3d import is_mmdet3d
from training.importing.pointcept import BEFORE_1_5_2, FAMILIES
from training.importing.reading import read_checkpoint
from training.importing.renaming import Checkpoint, Family, StateDict
from training.importing.sensor_options import (
    add_sensor_options,
    choose_sensor,
    rows_of_sensor,
)
from training.importing.told import (
    guesses,
    Row,
    rows_of_sources,
    told,
    voxel_size,
    without_unlabeled,
)
from training.run.ranks import join_ranks

VOXEL_M = 0.05  # where neither the checkpoint nor the user says it


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
    if family.as_ported and is_mmdet3d(state):
        state = family.as_ported(state)
    read = state.config, told(options.config, options.set, family)
    state.config = {**read[0], **read[1]}
    state = without_unlabeled(state, family)
    guessed = find_guesses(state, family, options)
    names = family.names(state)
    rows = [(name, _place(name, names, family), shape_of(t)) for name, t in state.items()]
    console.table(str(options.checkpoint), ('checkpoint', 'ours', 'shape'), rows)
    labels = choose_labels(state, family, options)
    headless = labels == NO_CLASSES
    partial = labels if options.partial else None
    model = load(state, family, options.checkpoint, partial=partial, headless=headless)
    if 'names' in state.config and not headless:
        put_in_order(model, order_of(state.config['names'], labels))
    settings = {**settings_of(state, family, options.checkpoint)}
    settings.pop('classes')
    spec = BundleSpec(
        model=ModelSpec(name=family.model, settings=settings),
        grid=grid_of(family, state, options.voxel_m),
        intensity=IntensitySpec(scale=choose_scale(state, family, labels, options)),
        sensor=choose_sensor(labels, options),
        labels=labels,
        provenance=describe_import(options.checkpoint, family, guessed),
    )
    rows = rows_of_sources(settings, guessed, read, family)
    console.table('settings', ('setting', 'value', 'from'), rows + _rows_of_data(spec, options))
    save_bundle(options.output, model, spec)
    show_import(options.output, model, spec, family, console)
    if options.check is not None:
        check_import(options, console)


def find_guesses(state: Checkpoint, family: Family, options: argparse.Namespace) -> list[str]:
    """What would be guessed; a refusal unless the user has said to go on."""
    guessed = guesses(state, family, voxel_m=options.voxel_m)
    scale = options.intensity_scale or state.config.get('intensity_scale')
    if options.labels and options.labels not in family.intensity and not scale:
        guessed.append('intensity scale (intensity_scale, or --intensity-scale)')
    if guessed and not options.assume:
        raise BundleError(
            f'{options.checkpoint}: {", ".join(guessed)} would be guessed, as no shape tells '
            'them, and a wrong guess gives wrong logits: give them by --config FILE or '
            '--set key=value, or pass --assume'
        )
    return guessed


def describe_import(checkpoint: Path, family: Family, guessed: Sequence[str]) -> dict[str, str]:
    """What the bundle says of where it comes from."""
    facts = {
        'imported_from': checkpoint.name,
        'sha256': hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        'assumed': ', '.join(guessed),
        'differences': family.note,
        'structure': family.structure,
    }
    return {key: fact for key, fact in facts.items() if fact}


def show_import(
    output: Path, model: nn.Module, spec: BundleSpec, family: Family, console: Console
) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    console.line(f'{output}: {family.model}, {count:,} parameters, {spec.model.settings}')
    scale = spec.intensity.scale
    console.line(f'trained on intensity times {scale:g}; --intensity-scale changes it')
    if family.structure:
        console.line(f'its structure is {family.structure}')
    if spec.labels == NO_CLASSES:
        console.line('it has no head: a teacher by its features, it cannot label a scan')


def _rows_of_data(spec: BundleSpec, options: argparse.Namespace) -> list[Row]:
    count = f'inferred from {spec.labels.num_classes} classes, or read (names)'
    scale = f"inferred: as the network's code has it for {spec.labels.name}, unless told"
    return [
        ('label table', spec.labels.name, '--labels' if options.labels else count),
        ('intensity times', f'{spec.intensity.scale:g}', scale),
        *rows_of_sensor(spec, options),
    ]


def _place(name: str, names: Mapping[str, str], family: Family) -> str:
    return names.get(name, 'not used' if name.startswith(family.unused) else 'not known')


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


def grid_of(
    family: Family, state: StateDict, voxel_m: float | None
) -> CartesianGrid | CylinderGrid:
    if family.grid is not None:
        return family.grid(state)
    config = getattr(state, 'config', {})
    size = voxel_m or voxel_size(config.get('grid_size', VOXEL_M))
    corner = family.origin * size
    return CartesianGrid(
        voxel_m=size, origin_m=(corner, corner, corner) if family.origin else None
    )


def choose_labels(state: Checkpoint, family: Family, options: argparse.Namespace) -> ClassTable:
    """The table asked for, else that of the configuration's names, else one of as many classes."""
    if options.labels == NO_CLASSES.name:
        return NO_CLASSES
    classes = settings_of(state, family, options.checkpoint)['classes']
    labels = table(options.labels) if options.labels else None
    if labels is None:
        labels = table_of(state.config.get('names'), classes)
    if labels is None:
        found = 'no head' if classes is None else f'{classes} classes'
        raise BundleError(
            f'{options.checkpoint}: has {found}: name its label table with --labels, or pass '
            f'--labels {NO_CLASSES.name} for a teacher by its features alone'
        )
    if classes not in (None, labels.num_classes):
        raise BundleError(
            f'{options.checkpoint}: has {classes} classes, the label table {labels.name} '
            f'{labels.num_classes}: choose its own with --labels'
        )
    return labels


def choose_scale(
    state: Checkpoint, family: Family, labels: ClassTable, options: argparse.Namespace
) -> float:
    """Times the stored intensity: as told, else as the code of that family has it."""
    if options.intensity_scale:
        return float(options.intensity_scale)
    scale = state.config.get('intensity_scale', family.intensity.get(labels.name, 1.0))
    if not isinstance(scale, (int, float)) or scale <= 0:
        raise BundleError(f'intensity_scale {scale}: give a number above 0')
    return float(scale)


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
        help='semantickitti, nuscenes, or none: a teacher by its features, without a head '
        '(default: by the names of the classes in FILE)',
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
        '(default: as its code has it for that label table: Pointcept 1/255 for nuscenes)',
    )
    add_sensor_options(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())

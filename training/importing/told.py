# SPDX-License-Identifier: Apache-2.0
"""Which settings of a network a file or the user tells, and which would be guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lidar_kd.errors import BundleError
from training.importing.configuration import read_configuration, read_pairs
from training.importing.mmdet3d import KEYS, translated
from training.importing.renaming import Checkpoint, Family, StateDict

# also read where they stand
CHECKED = (
    *('stride', 'pre_norm', 'qk_scale', 'grid_size', 'shared_pairs', 'dec_num_head'),
    *('dec_patch_size', 'dec_rope_freq', 'names', 'intensity_scale'),
)
Row = tuple[str, str, str]


def rows_of_sources(
    settings: Mapping[str, Any],
    guessed: Sequence[str],
    read: Sequence[Mapping[str, Any]],
    family: Family,
) -> list[Row]:
    """What was read, what was inferred, what was assumed. read: from the file, and as told."""
    rows = [
        (key, str(config[key]), f'read from {place}')
        for config, place in zip(read, ('the checkpoint', '--config or --set'))
        for key in config
        if key in {*family.unshaped, *CHECKED}
    ]
    rows += [
        (key, str(value), 'inferred from shapes and what was read')
        for key, value in settings.items()
    ]
    return rows + [(word, 'the default', 'ASSUMED') for word in guessed]


def told(file: Path | None, pairs_set: Sequence[str], family: Family) -> dict[str, Any]:
    """What --config and --set say; the latter wins."""
    wanted = [*family.unshaped, *CHECKED]
    pairs = read_pairs(pairs_set)
    unknown = sorted(pairs.keys() - {*wanted})
    if unknown:
        raise BundleError(f'--set {unknown[0]}: not asked for; known are {", ".join(wanted)}')
    # one that --set gives is not looked for: there it may stand twice, or as code
    asked = [key for key in [*wanted, *KEYS] if key not in pairs]
    found = translated(read_configuration(file, asked)) if file else {}
    return {**found, **pairs}


def without_unlabeled(state: Checkpoint, family: Family) -> Checkpoint:
    """Published tables count from 'unlabeled', class 0, which nobody wants as an answer."""
    if family.unlabeled_head not in state:
        return state
    bias = family.unlabeled_head.replace('weight', 'bias')
    heads = {name: state[name][..., 1:] for name in (family.unlabeled_head, bias) if name in state}
    trimmed = Checkpoint({**state, **heads})
    trimmed.config = state.config
    return trimmed


def guesses(state: StateDict, family: Family, *, voxel_m: float | None) -> list[str]:
    """What is not said of the settings that no tensor's shape tells."""
    config = getattr(state, 'config', {})
    found = [f'{word} ({key})' for key, word in family.unshaped.items() if key not in config]
    if family.grid is None and not voxel_m and 'grid_size' not in config:
        found.append('voxel size (grid_size, or --voxel-m)')
    return found


def voxel_size(value: object) -> float:
    """grid_size: a number, or three times the same."""
    sides = {*value} if isinstance(value, (list, tuple)) else {value}
    for side in sides:
        if len(sides) == 1 and isinstance(side, (int, float)) and side > 0:
            return float(side)
    raise BundleError(f'grid_size {value}: give one number of metres: --set grid_size=0.05')

# SPDX-License-Identifier: Apache-2.0
"""Which settings of a network a file or the user tells, and which would be guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lidar_kd.cli.console import Console
from lidar_kd.errors import BundleError
from training.importing.configuration import read_configuration, read_pairs
from training.importing.renaming import Checkpoint, Family, StateDict

# also read where they stand
CHECKED = ('stride', 'pre_norm', 'qk_scale', 'grid_size', 'shared_pairs')


def show_sources(
    settings: Mapping[str, Any],
    guessed: Sequence[str],
    read: Sequence[Mapping[str, Any]],
    family: Family,
    console: Console,
) -> None:
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
    rows += [(word, 'the default', 'ASSUMED') for word in guessed]
    console.table('settings', ('setting', 'value', 'from'), rows)


def told(file: Path | None, pairs_set: Sequence[str], family: Family) -> dict[str, Any]:
    """What --config and --set say; the latter wins."""
    wanted = [*family.unshaped, *CHECKED]
    pairs = read_pairs(pairs_set)
    unknown = sorted(pairs.keys() - {*wanted})
    if unknown:
        raise BundleError(f'--set {unknown[0]}: not asked for; known are {", ".join(wanted)}')
    return {**(read_configuration(file, wanted) if file else {}), **pairs}


def without_unlabeled(state: Checkpoint, family: Family) -> Checkpoint:
    """Published tables count from 'unlabeled', class 0, which nobody wants as an answer."""
    if family.unlabeled_head not in state:
        return state
    bias = family.unlabeled_head.replace('weight', 'bias')
    heads = {name: state[name][..., 1:] for name in (family.unlabeled_head, bias) if name in state}
    trimmed = Checkpoint({**state, **heads})
    trimmed.config = state.config
    return trimmed


def guesses(state: StateDict, family: Family) -> list[str]:
    """What the file does not say of the settings that no tensor's shape tells."""
    config = getattr(state, 'config', {})
    return [f'{word} ({key})' for key, word in family.unshaped.items() if key not in config]

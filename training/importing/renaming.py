# SPDX-License-Identifier: Apache-2.0
"""What the names of a checkpoint's tensors tell: ours in their place, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
import re
from typing import Any

from torch import Tensor

from lidar_kd.voxels import CylinderGrid

StateDict = Mapping[str, Tensor]
Rules = dict[str, Callable[..., str]]  # pattern of their name -> ours from its groups
LAYER = {'0': 'conv', '1': 'norm'}  # of a sequence of two


class Checkpoint(dict[str, Tensor]):
    """Tensors by name, and the constructor's settings where the file says them."""

    config: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Family:
    """How the checkpoints of one published code base name things."""

    model: str
    names: Callable[[StateDict], dict[str, str]]  # their name -> ours; unknown ones left out
    settings: Callable[[StateDict], dict[str, Any]]  # of build_model, read off the shapes
    weight: Callable[[str, Tensor], Tensor]  # of their name, in our layout
    origin: float = 0.0  # where voxel 0 begins, in voxels
    note: str = ''  # what differs from the way it was trained
    structure: str = ''  # which of several that the same tensors fit
    unused: tuple[str, ...] = ()  # how tensors begin that its forward pass never asked for
    arranged: Callable[[StateDict], dict[str, Tensor]] | None = None  # where weight is not enough
    grid: Callable[[StateDict], CylinderGrid] | None = None  # where it has no cubes
    unlabeled_head: str = ''  # the layer whose first class is none
    unshaped: Mapping[str, str] = field(default_factory=dict)  # of a config: no shape tells them
    # label table -> times the stored intensity gives what its code trains on
    intensity: Mapping[str, float] = field(default_factory=dict)
    as_ported: Callable[[Checkpoint], Checkpoint] | None = None  # mmdet3d's names in its own


def renamed(names: Iterable[str], rules: Rules) -> dict[str, str]:
    """their name -> ours, by the rule whose pattern matches the whole name."""
    found = {}
    for name in names:
        for pattern, ours in rules.items():
            if match := re.fullmatch(pattern, name):
                found[name] = ours(*match.groups())
    return found


def listed(names: Sequence[str], most: int = 4) -> str:
    return ', '.join(names[:most]) + ', ...' * (len(names) > most)


def rows_of(state: StateDict, name: str) -> int | None:
    return len(state[name]) if name in state else None


def count_of(names: Iterable[str], pattern: str) -> int:
    """How many numbers the pattern's group takes, counted up to the largest."""
    matches = (re.fullmatch(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in matches if match), default=0)

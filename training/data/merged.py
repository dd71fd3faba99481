# SPDX-License-Identifier: Apache-2.0
"""Merged labels: where a data set's own classes are coarser than those of its table.

A label 'building' that fences have as well says that a point is one of both. Such a label is a
number beyond those of the classes; the supervised loss adds the probabilities of its classes up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError
from lidar_kd.labels import ClassTable, IGNORE

Names = Mapping[str, tuple[str, ...]]  # a class as labelled -> those that it may be; (): any


class MergedLabels(NamedTuple):
    """classes: the train ids of each merged label, whose own id follows those of the classes.

    lookups: one for each data set, (256,) from train ids to what is known of such points.
    """

    classes: tuple[tuple[int, ...], ...]
    lookups: tuple[NDArray[np.uint8], ...]


def merge_labels(table: ClassTable, sets: Sequence[Names]) -> MergedLabels:
    """What each of several data sets merges."""
    classes: list[tuple[int, ...]] = []
    lookups = []
    for names in sets:
        lookup = np.arange(256, dtype=np.uint8)
        for labelled, told in names.items():
            known = tuple(_find_class(name, table) for name in told)
            lookup[_find_class(labelled, table)] = _number(known, classes, table)
        lookups.append(lookup)
    return MergedLabels(tuple(classes), tuple(lookups))


def _number(known: tuple[int, ...], classes: list[tuple[int, ...]], table: ClassTable) -> int:
    """Of a label for these classes; a new one is appended."""
    if len(known) < 2:
        return known[0] if known else IGNORE
    if known not in classes:
        classes.append(known)
    return table.num_classes + classes.index(known)


def _find_class(name: str, table: ClassTable) -> int:
    if name not in table.names:
        raise ConfigError(
            f"data.labelled: merged: '{name}' is no class of '{table.name}'; use "
            f'{", ".join(table.names)}.'
        )
    return table.names.index(name)

# SPDX-License-Identifier: Apache-2.0
"""The label files of nuScenes: classes from nuScenes-lidarseg, objects from nuScenes-panoptic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.scans.read import check_packing, DAMAGED
from training.data.scan import Raw


@dataclass(frozen=True)
class LabelReader:
    """Categories of nuScenes-lidarseg, and the object numbers where nuScenes-panoptic has them.

    Its categories are not read: they are 0 for a thing's points in no box or in several.
    """

    numbers: Mapping[Path, Path]  # file of lidarseg -> file of panoptic

    def __call__(self, path: Path) -> Raw:
        categories = np.fromfile(path, np.uint8)
        panoptic = self.numbers.get(path)
        return categories, None if panoptic is None else _read_numbers(panoptic, categories)


def _read_numbers(path: Path, categories: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """1000 x the category's index + the object's number within the category, 0 without one."""
    raw = _read_panoptic_file(path)
    if len(raw) != len(categories):
        raise DataError(
            f'{path}: {len(raw)} object numbers for {len(categories)} labels of '
            'nuScenes-lidarseg; unpack both again from the same release.'
        )
    # The whole number, as several categories become one class and each of them starts from 1.
    numbered = (raw % 1000 > 0) & (raw // 1000 == categories)
    numbers: NDArray[np.uint32] = np.where(numbered, raw, 0).astype(np.uint32)
    return numbers


def _read_panoptic_file(path: Path) -> NDArray[np.uint32]:
    try:
        check_packing(path)
        with np.load(path, allow_pickle=False) as file:
            return file['data'].astype(np.uint32).reshape(-1)
    except OSError as error:  # said here: the set knows the lidarseg file only
        raise DataError(
            f'{path}: cannot be read ({error.strerror or error}); unpack nuScenes-panoptic again '
            'or remove panoptic.json to go without object numbers.'
        ) from None
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(
            f'{path}: not a file of nuScenes-panoptic ({type(error).__name__}); unpack it again.'
        ) from None

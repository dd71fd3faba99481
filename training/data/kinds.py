# SPDX-License-Identifier: Apache-2.0
"""Data sets by the kind that a configuration or a command names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lidar_kd.errors import ConfigError
from training.data.bags import open_bags
from training.data.folder import open_folder
from training.data.nuscenes import open_nuscenes
from training.data.scan import ScanSet
from training.data.semantickitti import open_semantickitti

Sequences = str | Sequence[str | int] | None  # a split, some names, or all
KINDS: dict[str, Callable[[Path, Sequences], ScanSet]] = {
    'semantickitti': open_semantickitti,
    'nuscenes': open_nuscenes,
    'folder': open_folder,
    'bags': open_bags,
}


def open_dataset(kind: str, root: str | Path, sequences: Sequences = None) -> ScanSet:
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of data set '{kind}'; choose one of {', '.join(KINDS)}.")
    return KINDS[kind](Path(root), sequences)

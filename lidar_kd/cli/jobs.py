# SPDX-License-Identifier: Apache-2.0
"""Which scans a command segments, where their results go, and which share is this process's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import os
from pathlib import Path
import tempfile

import torch

from lidar_kd.cli.page import choose_page_rows
from lidar_kd.errors import ConfigError, DataError, LidarKdError
from lidar_kd.scans import count_points_in_file, find_scans, strip_suffix

DEFAULT_FOLDER = 'predictions'  # beside the scans


@dataclass(frozen=True, kw_only=True)
class Job:
    """One scan and what is written for it."""

    scan: Path
    label: Path
    picture: Path | None
    shown: bool = False  # on the page, for which it is segmented even where its labels exist

    @property
    def name(self) -> str:
        return '/'.join(self.scan.parts[-3:])

    def is_done(self, bytes_per_point: int, columns: int | None) -> bool:
        if self.shown or not self.label.is_file() or (self.picture and not self.picture.is_file()):
            return False
        try:
            points = count_points_in_file(self.scan, columns=columns)
        except (OSError, LidarKdError):
            return False  # segmenting it tells what is wrong
        return self.label.stat().st_size == points * bytes_per_point

    def check_label(self, size: int) -> None:
        """What is there and has another size was not written by the same command."""
        there = self.label.stat().st_size if self.label.is_file() else size
        if there != size:
            raise DataError(
                f'{self.label}: exists and has {there:,} bytes, not the {size:,} of the labels of '
                f'{self.scan.name}; choose another folder with -o, or add --overwrite.'
            )


@dataclass(frozen=True, kw_only=True)
class Rank:
    """This process among those that torchrun started; alone by default."""

    index: int = 0
    local: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> Rank:
        keys = {'index': 'RANK', 'local': 'LOCAL_RANK', 'world': 'WORLD_SIZE'}
        found = {name: os.environ[key] for name, key in keys.items() if key in os.environ}
        try:
            rank = cls(**{name: int(text) for name, text in found.items()})
            if not (0 <= rank.index < rank.world and rank.local >= 0):
                raise ValueError
            return rank
        except ValueError:
            raise ConfigError(
                f'RANK, LOCAL_RANK and WORLD_SIZE must be numbers, RANK below WORLD_SIZE, not '
                f'{found}; unset them, or start this with torchrun.'
            ) from None

    def take_share(self, jobs: Sequence[Job]) -> list[Job]:
        return list(jobs[self.index :: self.world])

    def choose_device(self, device: str) -> str:
        """`auto` gives every process on a machine a GPU of its own."""
        if device == 'auto' and self.world > 1 and torch.cuda.is_available():
            return f'cuda:{self.local % torch.cuda.device_count()}'
        return device


def plan_jobs(inputs: Sequence[Path], output: Path | None, *, pictures: bool) -> list[Job]:
    """Jobs for scans and folders of scans; no two write the same file."""
    by_label: dict[Path, Job] = {}
    for given in inputs:
        if not given.exists():
            raise DataError(f'{given}: no such scan or folder; check the path.')
        folder = given if given.is_dir() else given.parent
        scans = find_scans(given) if given.is_dir() else [given]
        root = output or folder / DEFAULT_FOLDER
        for scan in scans:
            target = root / scan.relative_to(folder).parent / strip_suffix(scan)
            label, picture = (target.with_name(target.name + end) for end in ('.label', '.png'))
            job = Job(scan=scan, label=label, picture=picture if pictures else None)
            other = by_label.setdefault(label, job)
            if other.scan.resolve() != scan.resolve():
                raise ConfigError(
                    f'{other.scan} and {scan} would both write {label}; '
                    'segment them with different output folders.'
                )
    return list(by_label.values())


def show_some(jobs: Sequence[Job]) -> list[Job]:
    """The same, those for the page marked."""
    shown = set(choose_page_rows(len(jobs)))
    return [replace(job, shown=row in shown) for row, job in enumerate(jobs)]


def check_output(folder: Path) -> None:
    """A folder that cannot be written shows now, not after the first scan; leaves nothing."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise DataError(
            f'{folder}: cannot be written ({error.strerror}); choose another folder with -o.'
        ) from None

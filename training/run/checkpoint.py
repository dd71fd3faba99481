# SPDX-License-Identifier: Apache-2.0
"""A run's state on disk: written complete or not at all, read only where nothing is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import pickle
import struct
from typing import Any
import zipfile
import zlib

import torch

from lidar_kd.cli.console import Console
from lidar_kd.errors import DataError, LidarKdError, write_atomically
from lidar_kd.sparse import select_engine
from training.run.folder import RunFolder
from training.run.old_names import rename_state

State = dict[str, Any]
# what zipfile and torch raise at damaged files: there is no common class
_DAMAGED = (
    *(RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
    *(LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError),
    *(AssertionError, NotImplementedError, struct.error),
)


def load_newest(folder: RunFolder, console: Console) -> State | None:
    """The last checkpoint, the best one where that is damaged; None in a new run."""
    if not folder.last.is_file():
        return None
    try:
        return load_checkpoint(folder.last)
    except DataError as damaged:
        if not folder.best.is_file():
            raise
        state = load_checkpoint(folder.best)
        console.warn(f'{damaged} {folder.best} is taken instead, of step {state["step"]}.')
        return state


@contextmanager
def told_as_damaged(folder: RunFolder) -> Iterator[None]:
    """A checkpoint that is whole and says what no run of this configuration does."""
    try:
        yield
    except LidarKdError:
        raise
    except _DAMAGED as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise DataError(
            f'{folder.path}: its checkpoint does not fit this run ({reason}); start over with '
            '--fresh.'
        ) from None


def describe_machine(device: torch.device) -> dict[str, str]:
    """What the last bits of a result depend on beside configuration and seed."""
    return {'threads': str(torch.get_num_threads()), 'engine': select_engine(device).name}


def warn_of_another_machine(state: State, device: torch.device, console: Console) -> None:
    """Nothing is known of a checkpoint from before this was written."""
    now, then = describe_machine(device), state.get('machine', {})
    changes = [
        f'{key} {then[key]} -> {now[key]}' for key in now if then.get(key, now[key]) != now[key]
    ]
    if changes:
        console.warn(f'going on with {", ".join(changes)}: the last bits will differ')


def save_checkpoint(path: Path, state: State) -> None:
    try:
        with write_atomically(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch's own writer does not say why it stopped
        reason = error.strerror if isinstance(error, OSError) else 'is the disk full?'
        raise DataError(
            f'{path}: cannot be written ({reason}); free some space, then run the same command '
            'again: it goes on from the last one that was written.'
        ) from None


def load_checkpoint(path: Path) -> State:
    """Tensors and plain values only: a checkpoint never runs code."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            packed = any(member.compress_type for member in archive.infolist())
            if packed or archive.testzip() is not None:
                raise zipfile.BadZipFile
        state: State = torch.load(path, map_location='cpu', weights_only=True)
        if not isinstance(state, dict) or not isinstance(state.get('step'), int):
            raise zipfile.BadZipFile
    except OSError as error:
        raise DataError(
            f'{path}: cannot be read ({error.strerror or error}); check the path.'
        ) from None
    except _DAMAGED:
        raise DataError(
            f'{path}: no complete checkpoint of a run; pass one that train.py wrote, or --fresh.'
        ) from None
    return rename_state(state)

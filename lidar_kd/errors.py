# SPDX-License-Identifier: Apache-2.0
"""What can go wrong around files: errors of one sentence each (what, where, the remedy), and
output that appears complete or not at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import tempfile

MOST_SAID = 1000  # characters of a sentence; a damaged file may quote itself at any length


def make_printable(text: str) -> str:
    """Without what a terminal would obey or cannot show."""
    if text.isprintable():
        return text
    return ''.join(c if c.isprintable() or c == '\n' else '?' for c in text)


class LidarKdError(ValueError):
    """A user's mistake; commands print its sentence without a traceback and exit 2."""

    def __str__(self) -> str:
        sentence = make_printable(super().__str__())
        if len(sentence) <= MOST_SAID:
            return sentence
        half = MOST_SAID // 2
        return f'{sentence[:half]} ... {sentence[-half:]}'  # what and where; the remedy


class ConfigError(LidarKdError):
    """A setting, option or name that cannot be used."""


class DataError(LidarKdError):
    """A scan, label or folder that cannot be read or written."""


class BundleError(LidarKdError):
    """A bundle file that cannot be loaded or written."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; renames it when the block succeeds."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        yield temporary
        with temporary.open('rb') as file:
            os.fsync(file.fileno())  # a crash right after the rename must not leave an empty file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever keeps the block from writing `path` becomes one sentence with its remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f'{path}: cannot be written ({error.strerror or error}); '
            'free some space or choose another output folder.'
        ) from None


def prepare_folder(path: Path) -> Path:
    """Makes a folder for output; one that cannot be written shows now, not after the work."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path

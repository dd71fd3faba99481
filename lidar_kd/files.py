# SPDX-License-Identifier: Apache-2.0
"""Files appear complete or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path


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

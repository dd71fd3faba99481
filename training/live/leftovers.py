# SPDX-License-Identifier: Apache-2.0
"""Clears away what Fast DDS leaves in shared memory when a process is killed: 35 MB each.

As a program it waits until its input ends, which is when all who hold the other end are gone.
It needs the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import fcntl
from pathlib import Path
import re
import subprocess
import sys
import time

SHARED_MEMORY = Path('/dev/shm')
YOUNG_S = 2.0  # what is just being made is not locked yet
_NAME = re.compile(r'(?:sem\.)?((?:fastdds|fastrtps)_(?:port\d+|[0-9a-f]{16}))(?:_el|_sl|_mutex)?')


@contextmanager
def sweeping() -> Iterator[int]:
    """Shared memory is swept after this process and all that got the yielded descriptor."""
    words = [sys.executable, '-I', '-S', __file__]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as sweeper:
        assert sweeper.stdin is not None
        yield sweeper.stdin.fileno()


def sweep(folder: Path, now_s: float) -> bool:
    """Removes what nobody alive has locked; whether some of it is too young to tell."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob('*fast*')):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    waits = [_remove(paths, now_s) for paths in found.values()]
    return any(waits)


def _remove(paths: list[Path], now_s: float) -> bool:
    """One segment or port with its locks; whether that has to wait."""
    with suppress(OSError):  # gone meanwhile, or somebody else's
        if any(map(is_locked, paths)):
            return False
        if now_s - max(path.stat().st_ctime for path in paths) < YOUNG_S:
            return True
        for path in paths:
            path.unlink()
    return False


def is_locked(path: Path) -> bool:
    """Whether a process holds it; the locks of those that die are gone with them."""
    with path.open('rb') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def main() -> None:
    sys.stdin.read()
    if SHARED_MEMORY.is_dir() and sweep(SHARED_MEMORY, time.time()):
        time.sleep(YOUNG_S)
        sweep(SHARED_MEMORY, time.time())


if __name__ == '__main__':
    main()

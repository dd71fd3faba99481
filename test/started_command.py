# SPDX-License-Identifier: Apache-2.0
"""Starts commands from a process that has torch loaded already, which takes each 2 to 4 s.

What is started imports lidar_kd and training itself, and is in all else as a process of its own:
words, folder, environment, screen, exit status, signals. What a test asks of the first moments of
Python, of its flags, or of variables that libraries read when they are loaded, takes subprocess.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
import gc
import multiprocessing
from multiprocessing import forkserver, process
from multiprocessing.context import ForkServerProcess
import os
from pathlib import Path
import resource
import runpy
from subprocess import CompletedProcess, TimeoutExpired
import sys
import tempfile
import traceback
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# none of them starts a thread, or a fork would lose it
LOADED = ['torch', 'torch._dynamo', 'matplotlib.figure', 'pydantic', 'rich.progress', 'yaml']
FORKING = multiprocessing.get_context('forkserver')
FORKING.set_forkserver_preload(LOADED)


def run_command(
    words: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    largest_file: int | None = None,
    timeout: float = 600,
) -> CompletedProcess[str]:
    """`words` as after `python`: a script, -m MODULE or -c CODE, and its arguments.

    largest_file: bytes beyond which it may not write, as on a full disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, 'out'), Path(folder, 'err')
        started = start_command(words, (out, err), cwd=cwd, env=env, largest_file=largest_file)
        started.join(timeout)
        if started.exitcode is None:
            started.kill()
            raise TimeoutExpired([*map(str, words)], timeout, out.read_text(), err.read_text())
        return CompletedProcess(words, started.exitcode, out.read_text(), err.read_text())


def start_command(
    words: Sequence[str | Path],
    screen: tuple[Path, Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    largest_file: int | None = None,
) -> ForkServerProcess:
    """Goes on beside the test, in a group of its own; `screen`: files for what it says."""
    variables = dict(os.environ if env is None else env)
    place = (str(cwd or Path.cwd()), variables, tuple(map(str, screen)), largest_file)
    started = FORKING.Process(target=_become, args=([*map(str, words)], place))
    started.start()
    return started


def end_starting() -> None:
    """Waits for the process that commands are forked from, if there is one."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _become(words: list[str], place: tuple[Any, ...]) -> None:
    cwd, variables, screen, largest_file = place
    os.setsid()
    for number, path in enumerate(screen, start=1):
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    _begin_afresh()
    try:
        _run_as_main(words)
    except Exception:  # noqa: BLE001 (as Python itself ends)
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()


def _begin_afresh() -> None:
    """Without what pytest has put on the path, and what all children of one process share."""
    import numpy as np
    import torch

    gc.freeze()  # no full collection looks at all of torch, which takes 0.1 s each
    own = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    installed = [path for path in sys.path if path.startswith(sys.prefix) or _is_elsewhere(path)]
    sys.path[:] = [*filter(None, own), *installed]
    multiprocessing.set_start_method(None, force=True)  # the usual one
    FORKING.set_forkserver_preload(['__main__'])
    process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]
    np.random.seed()  # noqa: NPY002 (the old one, which a new process seeds by itself)
    if 'OMP_NUM_THREADS' in os.environ:
        torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))


def _is_elsewhere(path: str) -> bool:
    return bool(path) and not Path(path).is_relative_to(ROOT)


def _run_as_main(words: list[str]) -> None:
    kind, *rest = words
    if kind == '-m':
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    elif kind == '-c':
        sys.argv = ['-c', *rest[1:]]
        sys.path.insert(0, '')
        exec(compile(rest[0], '<string>', 'exec'), {'__name__': '__main__'})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(kind, run_name='__main__')

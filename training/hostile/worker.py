# SPDX-License-Identifier: Apache-2.0
"""A process that does one hostile case after the other and says how each ended."""

from __future__ import annotations

from contextlib import redirect_stderr
import gc
from importlib import import_module
import io
from multiprocessing.connection import Connection
import os
from pathlib import Path
import resource
import shutil
import tempfile
import traceback
from typing import NamedTuple
import warnings

import torch

from lidar_kd.cli.console import Console
from lidar_kd.errors import LidarKdError
from training.hostile.kinds import choose_kind, Kind, list_kinds, rng_of
from training.hostile.templates import make_templates

GB = 1 << 30
MOST_ON_DISK = 2 * GB  # of one file; beyond it writing fails, which shows as a traceback
LONGEST_SENTENCE = 2000  # characters that reach a terminal
PROCESS = Path('/proc/self')


class Verdict(NamedTuple):
    end: str  # answered, refused, traceback, unclean; the runner adds crash, hang, memory
    detail: str
    peak_gb: float


def import_before_forks() -> None:
    """What every optimizer imports: 1.5 s, once instead of in each process that trains."""
    import_module('torch._dynamo')


def prepare_worker() -> None:
    """One thread, and nothing on the screen but what the runner says."""
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)


def write_templates(folder: Path) -> None:
    prepare_worker()
    make_templates(folder)


def serve(cases: Connection, templates: Path, scratch: Path, seed: int) -> None:
    """A number comes in, a Verdict goes out, until the other end is closed."""
    prepare_worker()
    tempfile.tempdir = str(scratch)
    kinds = list_kinds(templates)
    gc.freeze()  # a collection looks at what a case left, not at all of torch (0.2 s each)
    while True:
        try:
            number = cases.recv()
        except EOFError:
            return
        folder = Path(tempfile.mkdtemp(dir=scratch))
        _forget_peak()
        end, detail = try_case(kinds[choose_kind(kinds, number)], folder, seed, number)
        cases.send(Verdict(end, detail, read_peak_gb()))
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()


def try_case(kind: Kind, folder: Path, seed: int, number: int) -> tuple[str, str]:
    path = kind.make(folder, rng_of(seed, number))
    os.chdir(folder)
    _forget_peak()
    try:
        _limit_files(MOST_ON_DISK)  # a maker may write more, sparse
        kind.use(path)
    except LidarKdError as error:
        return _read_sentence(error)
    except Exception as error:  # noqa: BLE001 (whatever it is: it is what is looked for)
        return 'traceback', _locate(error)
    finally:
        _limit_files(resource.RLIM_INFINITY)
    return 'answered', ''


def _limit_files(size: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))


def _read_sentence(error: LidarKdError) -> tuple[str, str]:
    """As a command prints it: one line, short, nothing that a terminal obeys."""
    told = io.StringIO()
    with redirect_stderr(told):
        Console().fail(error)
    line = told.getvalue().removesuffix('\n')
    if not line.isprintable() or len(line) > LONGEST_SENTENCE:
        return 'unclean', f'{len(line)} characters: {ascii(line[:200])}'
    return 'refused', line


def _locate(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if '/lidar_kd/' in f.filename or '/training/' in f.filename]
    last = (ours or frames)[-1]
    text = ' '.join(str(error).split())[:300]
    return f'{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {ascii(text)}'


def _forget_peak() -> None:
    try:
        (PROCESS / 'clear_refs').write_text('5')
    except OSError:
        return  # then the peak is that of the process


def read_peak_gb(process: Path = PROCESS) -> float:
    """The highest resident memory since it was forgotten last."""
    try:
        lines = (process / 'status').read_text().splitlines()
    except OSError:
        return 0.0  # it has ended
    kb = next((line.split()[1] for line in lines if line.startswith('VmHWM')), '0')
    return int(kb) / (1 << 20)

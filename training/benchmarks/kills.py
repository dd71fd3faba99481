# SPDX-License-Identifier: Apache-2.0
"""Tiny runs killed at any moment and started again, beside one that was left alone."""

from __future__ import annotations

from collections.abc import Iterator
import gc
import json
import multiprocessing
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import signal
import tempfile
import time
from typing import Any

import numpy as np
import torch

from lidar_kd.cli.console import Console
from lidar_kd.cli.lacking import EXIT_INTERRUPTED
from training.hostile.damage import Rng
from training.hostile.templates import run_settings, write_street
from training.hostile.worker import import_before_forks, prepare_worker
from training.run.config import Config, load_config
from training.run.folder import RunFolder
from training.run.interrupt import Interrupted
from training.run.perform import perform
from training.run.ranks import Ranks

FORK = multiprocessing.get_context('fork')
TERMS = 6  # one in so many kills is a SIGTERM, which the run answers by saving itself
ENDED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, EXIT_INTERRUPTED)
NEVER_THE_SAME = {'steps_per_s', 'wait_share', 'peak_gb'}


def run_kills(console: Console, *, cases: int, seed: int) -> dict[str, float]:
    """So many kills, spread over as many runs as it takes."""
    console.line(f'{cases} kills, seed {seed}')
    import_before_forks()
    gc.freeze()  # no run looks through all of torch for what may go
    with tempfile.TemporaryDirectory(prefix='kills-') as scratch:
        folder = Path(scratch)
        write_street(folder / 'street')
        settings = {**run_settings(folder / 'street'), 'save_every_s': 0.0}
        settings['optim'] = {'steps': 6, 'batch_size': 1}
        (folder / 'tiny.yaml').write_text(json.dumps(settings))
        began = time.monotonic()
        _wait(_start(folder / 'tiny.yaml', folder / 'whole'))
        whole_s = time.monotonic() - began
        expected = _describe_run(folder / 'whole')
        sent: list[signal.Signals] = []
        problems = list(_find_lacks(folder / 'whole'))
        with console.progress(cases, 'killing', unit='kills') as advance:
            for number in range(cases):
                if len(sent) >= cases:
                    break
                rng, out = np.random.default_rng([seed, number]), folder / f'run{number}'
                for each in _kill_until_finished(folder / 'tiny.yaml', out, rng, whole_s):
                    sent.append(each)
                    if len(sent) <= cases:
                        advance()
                problems += [f'run {number}: {lack}' for lack in _compare(out, expected)]
    for problem in problems:
        console.warn(problem)
    terms = sent.count(signal.SIGTERM)
    console.line(f'{len(sent)} kills, {terms} of them SIGTERM; {len(problems)} problems')
    return {'kills': float(len(sent)), 'failures': float(len(problems))}


def _start(config: Path, out: Path) -> BaseProcess:
    process = FORK.Process(target=_train, args=(config, out))
    process.start()
    return process


def _train(path: Path, out: Path) -> None:
    prepare_worker()
    os.chdir(path.parent)
    config: Config = load_config(path)
    try:
        perform(config, RunFolder(out), Console(quiet=True), Ranks(), {})
    except Interrupted:
        os._exit(EXIT_INTERRUPTED)


def _wait(process: BaseProcess) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f'a run that nobody killed ended with {process.exitcode}')


def _kill_until_finished(
    config: Path, out: Path, rng: Rng, whole_s: float
) -> list[signal.Signals]:
    """What it was sent before it came to its end."""
    sent: list[signal.Signals] = []
    while True:
        chosen = signal.SIGKILL
        process = _start(config, out)
        process.join(rng.uniform(0, whole_s))
        if process.exitcode is None and process.pid is not None:
            if rng.integers(TERMS) == 0:
                chosen = signal.SIGTERM
            os.kill(process.pid, chosen)
            process.join()
        if process.exitcode == 0:
            return sent
        if process.exitcode not in ENDED_FROM_OUTSIDE:
            raise RuntimeError(f'{out}: a run that goes on ended with {process.exitcode}')
        sent.append(chosen)
        if len(sent) % 20 == 0:
            whole_s *= 2  # a busy machine: let it get further


def _compare(out: Path, expected: dict[str, Any]) -> Iterator[str]:
    yield from _find_lacks(out)
    found = _describe_run(out)
    for key, value in expected.items():
        if found.get(key) != value:
            yield f'{key} differs from that of the run that nobody killed'


def _find_lacks(out: Path) -> Iterator[str]:
    names = {path.name for path in out.iterdir()}
    wanted = {'report.json', 'report.txt', 'report.md', 'report.csv', 'confusion.png',
              'curves.png', 'last.pt', 'best.pt', 'best.safetensors'}  # fmt: skip
    yield from (f'{name} is missing' for name in sorted(wanted - names))
    yield from (f'{name} was left behind' for name in sorted(names) if name.endswith('.tmp'))


def _describe_run(out: Path) -> dict[str, Any]:
    """What must be the same to the last bit."""
    state = torch.load(out / 'last.pt', weights_only=True)
    rows = [json.loads(line) for line in (out / 'metrics.jsonl').read_text().splitlines()]
    return {
        'weights': {name: tensor.tolist() for name, tensor in state['model'].items()},
        'bundle': _read_tensors(out / 'best.safetensors'),
        'metrics': [_lasting(row) for row in rows],
        'confusion': json.loads((out / 'report.json').read_text())['confusion'],
    }


def _read_tensors(path: Path) -> bytes:
    """Without what is written before them, where the time of the run stands."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], 'little') :]


def _lasting(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in NEVER_THE_SAME}

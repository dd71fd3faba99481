# SPDX-License-Identifier: Apache-2.0
"""Several runs at once, each a process with its share of the cores.

Small networks gain little from a second core, so that two runs side by side take less time than
one after the other. Every run writes its own log, and goes on from where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
import subprocess
import tempfile
import time
from typing import IO

import torch

from lidar_kd.cli.console import Console
from lidar_kd.errors import LidarKdError
from training.run.folder import RunFolder
from training.run.interrupt import Interrupted, Interruption

POLL_S = 0.5
Command = Sequence[str]


class SideBySide:
    """Runs by name, each with its folder and what starts it; the first failure ends all.

    after: the run that must have ended before one starts, by name.
    """

    def __init__(
        self,
        runs: Mapping[str, tuple[RunFolder, Command]],
        at_once: int,
        console: Console,
        *,
        after: Mapping[str, str] | None = None,
    ) -> None:
        self._after = dict(after or {})
        self._folders = {name: folder for name, (folder, _) in runs.items()}
        self._waiting = {name: command for name, (_, command) in runs.items()}
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._said: dict[str, IO[str]] = {}
        self._at_once, self._console = at_once, console
        threads = max(1, torch.get_num_threads() // at_once)
        self._environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
        self._since = time.monotonic()

    def finish(self) -> None:
        """Returns when every run has ended well."""
        with Interruption() as interruption:
            try:
                while self._waiting or self._running:
                    self._start()
                    time.sleep(POLL_S)
                    self._collect()
                    if interruption.wanted and self._running:
                        folder = self._folders[next(iter(self._running))]
                        raise Interrupted(folder.path, _last_step(folder))
            finally:
                self._end()

    def _start(self) -> None:
        while len(self._running) < self._at_once:
            name = next((name for name in self._waiting if self._may_start(name)), None)
            if name is None:
                return
            self._said[name] = said = tempfile.TemporaryFile('w+')  # noqa: SIM115 - of the run
            self._running[name] = subprocess.Popen(
                self._waiting.pop(name),
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=said,  # no pipe: nobody reads while it runs, and a full one would block it
                text=True,
                start_new_session=True,  # Ctrl-C is for this process, which then ends them
            )
            self._console.line(f'{name}: started, its log: {self._folders[name].log}')

    def _may_start(self, name: str) -> bool:
        """Whether the run that it learns from, if there is one, has ended."""
        return self._after.get(name) not in {*self._waiting, *self._running}

    def _collect(self) -> None:
        for name in [name for name, run in self._running.items() if run.poll() is not None]:
            run = self._running.pop(name)
            said = self._read(name).strip().splitlines()
            if run.returncode:
                reason = said[-1] if said else f'it ended with {run.returncode}'
                raise LidarKdError(f'{name}: {reason.removeprefix("error: ")}')
            self._report(name)

    def _report(self, name: str) -> None:
        scores = [row['miou'] for row in self._folders[name].history() if 'miou' in row]
        done = len(self._folders) - len(self._waiting) - len(self._running)
        minutes = (time.monotonic() - self._since) / 60
        left = minutes / done * (len(self._folders) - done)
        self._console.line(
            f'{name}: mIoU {scores[-1]:.1%}; {done} of {len(self._folders)} runs in '
            f'{minutes:.0f} min, ETA {left:.0f} min'
        )

    def _end(self) -> None:
        """What still runs saves itself first."""
        for run in self._running.values():
            run.terminate()
        for run in self._running.values():
            run.wait()

    def _read(self, name: str) -> str:
        """All that a run has said on stderr."""
        with self._said.pop(name) as said:
            said.seek(0)
            return said.read()


def _last_step(folder: RunFolder) -> int:
    rows = folder.history()
    return rows[-1]['step'] if rows else 0

# SPDX-License-Identifier: Apache-2.0
"""Hostile files by the thousand: none may crash, hang, fill the memory or end in a traceback."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
import multiprocessing
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import tempfile
import time

from lidar_kd.cli.console import Console
from training.hostile.kinds import choose_kind, list_kinds
from training.hostile.worker import (
    import_before_forks,
    read_peak_gb,
    serve,
    Verdict,
    write_templates,
)

HANG_S = 10.0  # of processor time: a busy machine is no hang
STUCK_S = 60.0  # in which it got none at all
MOST_GB = 2.0
POLL_S = 0.02
CASES_OF_A_WORKER = 2000  # each loads again what the kinds import late, some seconds
FAILURES = ('crash', 'traceback', 'hang', 'memory', 'unclean')
LINE_AFTER = 500  # cases, without a terminal: an ended run goes on from its last line
SHOWN = 5  # examples of each kind of failure
TICK = os.sysconf('SC_CLK_TCK')
FORK = multiprocessing.get_context('fork')  # what torch takes seconds to load is shared


class _Worker:
    def __init__(self, templates: Path, scratch: Path, seed: int) -> None:
        self._places = (templates, scratch, seed)
        self._start()

    def _start(self) -> None:
        self.answers, theirs = FORK.Pipe()
        # the other end closes with the runner, however that ends
        self._process: BaseProcess = FORK.Process(
            target=_serve_alone, args=(self.answers, theirs, *self._places), daemon=True
        )
        self._process.start()
        theirs.close()
        self._proc = Path('/proc') / str(self._process.pid)
        self.case, self.done = -1, 0

    def take(self, case: int) -> None:
        if self.done == CASES_OF_A_WORKER:
            self.stop()
            self._start()
        self.case, self._began_s = case, self._cpu_s()
        self._moved, self._spent_s = time.monotonic(), self._began_s
        self.answers.send(case)

    def verdict(self) -> Verdict | None:
        """How the case ended, if it has."""
        if self.answers.poll():
            try:
                verdict: Verdict = self.answers.recv()
            except EOFError:
                self._process.join()
                return self._replaced('crash', f'exit code {self._process.exitcode}')
            self.done += 1
            too_much = verdict.peak_gb > MOST_GB
            return verdict._replace(end='memory') if too_much else verdict
        if read_peak_gb(self._proc) > MOST_GB:
            return self._replaced('memory', 'ended before it was done')
        spent_s, now = self._cpu_s(), time.monotonic()
        if spent_s > self._spent_s:
            self._spent_s, self._moved = spent_s, now
        if spent_s - self._began_s > HANG_S or now - self._moved > STUCK_S:
            return self._replaced('hang', f'{spent_s - self._began_s:.0f} s of processor time')
        return None

    def _replaced(self, end: str, detail: str) -> Verdict:
        peak_gb = read_peak_gb(self._proc)
        self.stop()
        self._start()
        return Verdict(end, detail, peak_gb)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.answers.close()

    def _cpu_s(self) -> float:
        try:
            fields = (self._proc / 'stat').read_text().rpartition(')')[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / TICK


def _serve_alone(
    parent: Connection, theirs: Connection, templates: Path, scratch: Path, seed: int
) -> None:
    parent.close()
    serve(theirs, templates, scratch, seed)


def run_hostile(
    console: Console, *, cases: int, seed: int, first: int, kind: str | None = None
) -> dict[str, float]:
    """Every case is a number: `--seed S --first N --cases 1` does it again, alone."""
    console.line(
        f'{cases} cases from number {first} on, seed {seed}; --first N goes on from there'
    )
    import_before_forks()
    with tempfile.TemporaryDirectory(prefix='hostile-') as scratch:
        templates = Path(scratch) / 'templates'
        templates.mkdir()
        writer = FORK.Process(target=write_templates, args=(templates,))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError(f'the templates: exit code {writer.exitcode}')
        kinds = list_kinds(templates)
        numbers = range(first, first + cases)
        chosen = [n for n in numbers if kind in (None, choose_kind(kinds, n))]
        ends: dict[str, Counter[str]] = defaultdict(Counter)
        failed: Counter[tuple[str, str]] = Counter()
        peak_gb = 0.0
        every = min(LINE_AFTER, max(1, len(chosen) // 10))
        with console.progress(len(chosen), 'hostile', unit='cases', every=every) as advance:
            for number, verdict in _judge_all(chosen, templates, Path(scratch), seed):
                name = choose_kind(kinds, number)
                ends[name][verdict.end] += 1
                peak_gb = max(peak_gb, verdict.peak_gb)
                if verdict.end in FAILURES:
                    failed[name, verdict.end] += 1
                    if failed[name, verdict.end] <= SHOWN:
                        console.warn(f'{name} {verdict.end}, case {number}: {verdict.detail}')
                advance()
    return _report(console, ends, failed, peak_gb)


def _judge_all(
    numbers: list[int], templates: Path, scratch: Path, seed: int
) -> Iterator[tuple[int, Verdict]]:
    todo = iter(numbers)
    count = min(os.cpu_count() or 1, max(1, len(numbers)))
    idle = [_Worker(templates, scratch, seed) for _ in range(count)]
    busy: list[_Worker] = []
    try:
        while True:
            while idle and (case := next(todo, None)) is not None:
                worker = idle.pop()
                worker.take(case)
                busy.append(worker)
            if not busy:
                return
            wait([worker.answers for worker in busy], POLL_S)
            for worker in list(busy):
                case = worker.case
                verdict = worker.verdict()
                if verdict is not None:
                    busy.remove(worker)
                    idle.append(worker)
                    yield case, verdict
    finally:
        for worker in [*idle, *busy]:
            worker.stop()


def _report(
    console: Console,
    ends: dict[str, Counter[str]],
    failed: Counter[tuple[str, str]],
    peak_gb: float,
) -> dict[str, float]:
    columns = ('answered', 'refused', *FAILURES)
    rows = [(name, sum(count.values()), *(count[each] for each in columns))
            for name, count in ends.items()]  # fmt: skip
    total: Counter[str] = sum(ends.values(), Counter())
    rows.append(('all', sum(total.values()), *(total[each] for each in columns)))
    console.table('Hostile files', ('kind', 'cases', *columns), rows)
    for (name, end), count in failed.items():
        if count > SHOWN:
            console.warn(f'{name} {end}, and {count - SHOWN} more')
    console.line(f'highest memory of a worker {peak_gb:.2f} GB')
    counts = {end: float(total[end]) for end in columns}
    failures = float(sum(total[end] for end in FAILURES))
    return {**counts, 'failures': failures, 'peak_gb': peak_gb}

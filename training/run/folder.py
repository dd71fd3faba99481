# SPDX-License-Identifier: Apache-2.0
"""What a run leaves: its configuration, log, metrics and checkpoints; each complete or absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import fcntl
import json
import logging
from pathlib import Path
import time
from typing import Any, TextIO

import yaml

from lidar_kd.errors import ConfigError, write_atomically
from training.run.config import Config, describe_changes, read_past_settings
from training.run.old_names import rename_origins
from training.run.yaml_file import read_settings

log = logging.getLogger(__name__)
PATIENCE_S = 10.0  # a killed run's loaders take seconds to see that they are alone


class RunFolder:
    """One folder, one run: a second configuration is refused, the same one goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / 'last.pt'
        self.best = path / 'best.pt'
        self.bundle = path / 'best.safetensors'
        self.config = path / 'config.yaml'
        self.origins = path / 'origins.json'
        self.metrics = path / 'metrics.jsonl'
        self.log = path / 'log.txt'
        self.report = path / 'report.json'

    @property
    def is_finished(self) -> bool:
        """The report, which is about the bundle, is the last thing a run writes."""
        return self.report.is_file() and self.bundle.is_file()

    @property
    def is_occupied(self) -> bool:
        """Whether a process trains here at the moment."""
        lock = self.path / '.lock'
        if not lock.is_file():
            return False
        with lock.open() as file:  # let go again at once: a run that begins waits for seconds
            return not _locked(file)

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """No other process trains here meanwhile; one that was killed holds nothing."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / '.lock').open('w') as file:
            given_up = time.monotonic() + PATIENCE_S
            while not _locked(file):
                if time.monotonic() > given_up:
                    raise ConfigError(
                        f'{self.path}: another process trains here; let it end, or end it, or '
                        'choose another --out.'
                    )
                time.sleep(0.1)
            for stray in self.path.glob('.*.tmp'):  # half-written by runs that were killed
                stray.unlink(missing_ok=True)
            yield

    def claim(self, config: Config, origins: Mapping[str, str]) -> None:
        """Writes configuration and origins, or makes sure that those there are the same.

        origins: what a path or a setting stands for now, as the digest of a teacher's bundle.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        results = [path.name for path in (self.last, self.bundle, self.report) if path.is_file()]
        if results and not self.config.is_file():
            self._refuse('results and no configuration', results)
        if results:  # else there is nothing to lose
            there = read_settings(self.config)
            self._refuse(
                'another configuration', describe_changes(config, read_past_settings(there))
            )
            self._refuse('something else to learn from', self.changed_origins(origins))
            return
        document = yaml.safe_dump(config.model_dump(mode='json', by_alias=True), sort_keys=False)
        for path, text in ((self.config, document), (self.origins, json.dumps(dict(origins)))):
            with write_atomically(path) as temporary:
                temporary.write_text(text, encoding='utf-8')

    def _refuse(self, what: str, changes: Sequence[str]) -> None:
        if changes:
            raise ConfigError(
                f'{self.path}: holds a run with {what} '
                f'({"; ".join(changes[:3])}{", ..." * (len(changes) > 3)}); choose another --out, '
                'or start over: with --fresh, or without this folder.'
            )

    def changed_origins(self, origins: Mapping[str, str]) -> list[str]:
        """Origins that differ; nothing is known of a run from before they were written."""
        there = self._read_origins()
        common = sorted(there.keys() & origins.keys())
        return [f'{key} {there[key]} -> {origins[key]}'
                for key in common if there[key] != origins[key]]  # fmt: skip

    def _read_origins(self) -> dict[str, str]:
        if not self.origins.is_file():
            return {}
        try:
            return rename_origins(json.loads(self.origins.read_text(encoding='utf-8')))
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ConfigError(
                f'{self.origins}: is damaged ({error}); start over with --fresh, or remove this '
                'file where nothing that the run learns from has changed.'
            ) from None

    def clear(self) -> None:
        """Removes what an earlier run left here, and nothing else."""
        files = (self.last, self.best, self.bundle, self.config, self.origins, self.metrics,
                 self.log, self.report)  # fmt: skip
        with self.occupied():
            for file in files:
                file.unlink(missing_ok=True)

    def append(self, row: Mapping[str, Any]) -> None:
        with self.metrics.open('a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')

    def history(self) -> list[dict[str, Any]]:
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding='utf-8', errors='replace').splitlines()
        rows = [row for row in map(_parse_row, lines) if row is not None]
        if len(rows) < len(lines):
            log.warning(
                '%s: %d lines are damaged and left out', self.metrics, len(lines) - len(rows)
            )
        return rows

    def forget_after(self, step: int) -> None:
        """Drops the rows that an interrupted run wrote behind its last checkpoint."""
        rows = [row for row in self.history() if row['step'] <= step]
        with write_atomically(self.metrics) as temporary:
            temporary.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def _parse_row(line: str) -> dict[str, Any] | None:
    """None for what an interrupted or damaged write left: curves do without it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers = isinstance(row, dict) and isinstance(row.get('step'), int)
    return row if numbers else None


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

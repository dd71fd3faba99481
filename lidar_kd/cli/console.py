# SPDX-License-Identifier: Apache-2.0
"""What commands print; the only module that prints.

On a terminal a progress bar and colours, elsewhere plain lines without control codes. Results go
to stdout; errors, warnings and the bar go to stderr.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
import time

from rich import box
from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lidar_kd.errors import make_printable

EXIT_BAD_INPUT = 2
_PLAIN_WIDTH = 160  # without a terminal nothing limits the width; tables must not wrap


class Console:
    """Prints for one process; a quiet one (ranks other than 0) prints warnings and errors only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._out = _make_rich(stderr=False, quiet=quiet)
        self._err = _make_rich(stderr=True, quiet=False)
        self._quiet = quiet
        self._log: RichConsole | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether somebody watches a bar move."""
        return self._err.is_terminal and not self._quiet

    @contextmanager
    def copied_to(self, path: Path) -> Iterator[None]:
        """Within it, what is printed (but bars) is appended to a file, too."""
        if self._quiet:
            yield
            return
        with path.open('a', encoding='utf-8') as file:
            self._log = RichConsole(file=file, highlight=False, width=_PLAIN_WIDTH)
            try:
                yield
            finally:
                self._log = None

    def banner(self, title: str, rows: Mapping[str, object]) -> None:
        """A title and what the run uses, one aligned line each."""
        self._show(Text(make_printable(title), 'bold'))
        width = max(map(len, rows), default=0)
        for key, value in rows.items():
            self.line(f'  {key:{width}}  {value}')

    def line(self, text: str = '') -> None:
        self._show(Text(make_printable(text)))

    def warn(self, text: str) -> None:
        self._show(Text('warning: ', 'yellow') + Text(make_printable(text)), error=True)

    def fail(self, error: Exception) -> int:
        """Print a user's mistake as one line; returns the exit code 2."""
        sentence = ' '.join(make_printable(str(error)).split())
        self._show(Text('error: ', 'bold red') + Text(sentence), error=True)
        return EXIT_BAD_INPUT

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """The first column is left aligned, the others (numbers) right."""
        table = Table(
            title=title,
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            title_justify='left',
            title_style='bold',
        )
        for index, column in enumerate(columns):
            table.add_column(column, justify='right' if index else 'left', no_wrap=index > 0)
        for row in rows:
            table.add_row(*(Text(make_printable(str(value))) for value in row))
        self._show(table)

    def _show(self, item: Text | Table, *, error: bool = False) -> None:
        wrap = isinstance(item, Text)  # a line is one line, however long
        (self._err if error else self._out).print(item, soft_wrap=wrap)
        if self._log is not None:
            self._log.print(item, soft_wrap=wrap)

    @contextmanager
    def progress(
        self, total: int, title: str, *, unit: str = 'scans', every: int | None = None
    ) -> Iterator[Callable[[], None]]:
        """Yields a function to call after each item; without a terminal a line every N items."""
        if self._quiet:
            yield lambda: None
        elif self._err.is_terminal:
            with self._make_bar() as bar:
                task = bar.add_task(title, total=total, rate='')
                yield _BarStep(bar, task, unit)
        else:
            yield _LineStep(self, total, title, unit, every or max(1, total // 10))

    def _make_bar(self) -> Progress:
        return Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[rate]}'),
            TextColumn('ETA'),
            TimeRemainingColumn(),
            console=self._err,
        )


class _BarStep:
    def __init__(self, bar: Progress, task: TaskID, unit: str) -> None:
        self._bar, self._task, self._unit = bar, task, unit
        self._rate = _Rate()

    def __call__(self) -> None:
        rate = f'{self._rate.count():.2f} {self._unit}/s'
        self._bar.update(self._task, advance=1, rate=rate)


class _LineStep:
    def __init__(self, console: Console, total: int, title: str, unit: str, every: int) -> None:
        self._console, self._total, self._title = console, total, title
        self._unit, self._every = unit, every
        self._rate = _Rate()

    def __call__(self) -> None:
        rate = self._rate.count()
        done = self._rate.done
        if done % self._every and done != self._total:
            return
        left_s = (self._total - done) / rate
        self._console.line(
            f'{self._title} {done}/{self._total}  {rate:.2f} {self._unit}/s  ETA {left_s:.0f} s'
        )


class _Rate:
    """Items per second since the start."""

    def __init__(self) -> None:
        self.done = 0
        self._start = time.perf_counter()

    def count(self) -> float:
        self.done += 1
        return self.done / max(time.perf_counter() - self._start, 1e-9)


def _make_rich(*, stderr: bool, quiet: bool) -> RichConsole:
    rich = RichConsole(stderr=stderr, quiet=quiet, highlight=False)
    if not rich.is_terminal:
        rich.width = _PLAIN_WIDTH
    return rich

# SPDX-License-Identifier: Apache-2.0
"""A comparison on the screen and in files."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path

from lidar_kd.cli.console import Console
from lidar_kd.errors import write_atomically
from training.comparing.figures import Comparison
from training.comparing.tables import make_tables, Table


def show_comparison(console: Console, comparison: Comparison) -> None:
    for table in make_tables(comparison):
        console.table(*table)


def write(folder: Path, comparison: Comparison) -> None:
    """comparison.{txt,md,json}"""
    texts = {
        'comparison.md': '\n'.join(map(_markdown, make_tables(comparison))),
        'comparison.txt': '\n'.join(map(_plain, make_tables(comparison))),
        'comparison.json': json.dumps(comparison.figures(), indent=2) + '\n',
    }
    for name, text in texts.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_text(text, encoding='utf-8')


def _markdown(table: Table) -> str:
    title, columns, rows = table
    lines = [f'**{title}**', '', _line(columns), _line(['---', *['--:'] * (len(columns) - 1)])]
    return '\n'.join([*lines, *map(_line, rows), ''])


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _plain(table: Table) -> str:
    title, columns, rows = table
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    lines = [
        '  '.join(cell.ljust(w) if i == 0 else cell.rjust(w)
                  for i, (cell, w) in enumerate(zip(row, widths)))
        for row in (columns, *rows)
    ]  # fmt: skip
    return '\n'.join([title, *lines, ''])

# SPDX-License-Identifier: Apache-2.0
"""What was measured with and without a method, read from the page that has the table.

The figures stand in docs/distillation.md and nowhere else; a configuration names the row.
"""

from __future__ import annotations

from pathlib import Path
import re

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'distillation.md'
SECTION = '### In minutes'  # its table is of the configurations that need no GPU
ALONE = 'student alone'


def quote_gain(row: str, page: Path = PAGE) -> str | None:
    """One sentence of the table's row and the command behind it; None where they are not there."""
    section = _read_section(page)
    rows = {cells[0]: cells for cells in map(_split_row, section.splitlines()) if len(cells) > 2}
    command = re.search(rf'^python .*config/{row.lower()}\.yaml.*$', section, re.MULTILINE)
    if row not in rows or ALONE not in rows or command is None:
        return None
    alone, taught = rows[ALONE], rows[row]
    return (
        f'{row} {taught[1]}, {ALONE} {alone[1]}; gain {taught[2]} points with its standard error, '
        f'by seed ({page.parent.name}/{page.name}; {command[0]})'
    )


def _read_section(page: Path) -> str:
    if not page.is_file():
        return ''
    _, _, rest = page.read_text(encoding='utf-8').partition(f'\n{SECTION}')
    return rest.partition('\n### ')[0]


def _split_row(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')] if line.startswith('|') else []

# SPDX-License-Identifier: Apache-2.0
"""Writes the page scan by scan: no more than one of them is held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import html
import json
from pathlib import Path
from typing import Any, TextIO

from lidar_kd.cli.page.encode import encode_page_scan, PageScan
from lidar_kd.errors import prepare_folder, write_atomically, writing
from lidar_kd.labels import ClassTable, FLAT_SURFACE, HAZARD

MOST_SCANS = 100  # of a page: some 100 MB
_FOLDER = Path(__file__).parent
# in the order in which they use each other
_SCRIPTS = (
    *('colours', 'scan', 'camera', 'shaders', 'lines', 'scene', 'overlay'),
    *('panel', 'controls', 'viewer', 'main'),
)


class PageWriter:
    """Takes the scans of a page in the order in which they are stepped through."""

    def __init__(self, file: TextIO, title: str, table: ClassTable) -> None:
        self._file, self._table = file, table
        self.scans = 0
        file.write(_fill_template(title, table))

    def add(self, scan: PageScan) -> None:
        facts, points = encode_page_scan(scan, self._table)
        self._file.write(
            f'<script type="application/json">{to_script_json(facts)}</script>'
            f'<script type="text/plain">{points}</script><script>lidarKd.arrive()</script>\n'
        )
        self.scans += 1


@contextmanager
def writing_page(path: Path, title: str, table: ClassTable) -> Iterator[PageWriter]:
    """The page is there when the block has ended well, and not at all otherwise."""
    prepare_folder(path.parent)
    with (
        writing(path),
        write_atomically(path) as temporary,
        temporary.open('w', encoding='utf-8') as file,
    ):
        yield PageWriter(file, title, table)
        file.write('</body>\n</html>\n')


def choose_page_rows(size: int, most: int = MOST_SCANS) -> Sequence[int]:
    """Which of `size` scans a page shows: all, or `most` evenly spread, first and last of them."""
    if size <= most:
        return range(size)
    return [row * (size - 1) // max(most - 1, 1) for row in range(most)]


def _fill_template(title: str, table: ClassTable) -> str:
    """Everything before the first scan."""
    classes = [
        {'name': name, 'colour': colour, 'sort': _sort_class(autoware_id)}
        for name, colour, autoware_id in zip(table.names, table.palette, table.autoware_ids)
    ]
    script = ''.join(_read(f'{name}.js') for name in _SCRIPTS)
    parts = {
        '{{style}}': _read('page.css'),
        '{{script}}': f'(() => {{\n{script}}})();',
        '{{facts}}': to_script_json({'classes': classes}),
        '{{title}}': html.escape(title),  # last: what it holds is no marker
    }
    page = _read('page.html')
    for marker, text in parts.items():
        page = page.replace(marker, text)
    return page


def _sort_class(autoware_id: int) -> str:
    """Movable things are drawn brightest, surfaces quietest."""
    if autoware_id <= HAZARD:
        return 'movable'
    return 'surface' if autoware_id == FLAT_SURFACE else 'structure'


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding='utf-8')


def to_script_json(value: Any) -> str:
    """JSON that no text in it can end the script of, or hide as a comment."""
    return json.dumps(value, allow_nan=False).replace('<', '\\u003c')

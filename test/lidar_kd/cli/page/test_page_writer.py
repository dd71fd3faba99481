# SPDX-License-Identifier: Apache-2.0
"""The page holds what it was given, within half a step, in a file that needs nothing else."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
import html
import json
from pathlib import Path
import re
from typing import Any
import zlib

import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.cli.page import choose_page_rows, PageScan, writing_page
from lidar_kd.cli.page.encode import MOST_POINTS
from lidar_kd.errors import DataError
from lidar_kd.labels import ClassTable, IGNORE, NUSCENES, SEMANTICKITTI

WIDE = ('x', 'y', 'z', 'instance')  # uint16; the others are uint8
EVIL = '</script><script>alert(1)</script>'


@dataclass(frozen=True, kw_only=True)
class Decoded:
    facts: dict[str, Any]
    planes: dict[str, NDArray[Any]]

    def xyz(self) -> NDArray[np.float64]:
        places = np.stack([self.planes[axis] for axis in 'xyz'], 1)
        return np.array(self.facts['low']) + np.array(self.facts['step']) * places


def decode_page(path: Path) -> list[Decoded]:
    """What a browser would read of it, by the words of encode.py."""
    text = path.read_text(encoding='utf-8')
    texts = ('"application/json">([^<]*)</script>', '"text/plain">([^<]*)</script>')
    pattern = ''.join(f'<script type={each}' for each in texts)
    return [decode_scan(json.loads(facts), data) for facts, data in re.findall(pattern, text)]


def decode_scan(facts: dict[str, Any], data: str) -> Decoded:
    stored, start, planes = zlib.decompress(base64.b64decode(data)), 0, {}
    for name in facts['planes']:
        kind = '<u2' if name in WIDE else 'u1'
        values = np.frombuffer(stored, kind, facts['count'], start)
        planes[name] = np.cumsum(values, dtype='<u2') if name in WIDE else values
        start += values.nbytes
    assert start == len(stored)
    return Decoded(facts=facts, planes=planes)


def random_scan(count: int, seed: int = 0) -> PageScan:
    """Points of a street's size and of all that stands still, some without a label."""
    generator = np.random.default_rng(seed)
    points = generator.uniform((-80, -60, -3, 0), (80, 60, 12, 1), (count, 4))
    labels = generator.choice([*range(8, 19), IGNORE], count).astype(np.uint8)
    return PageScan(
        name='00/000000',
        points=points.astype(np.float32),
        labels=labels,
        truth=np.where(generator.random(count) < 0.9, labels, 8).astype(np.uint8),
        probability=generator.random(count, dtype=np.float32),
    )


def write(path: Path, *scans: PageScan, table: ClassTable = SEMANTICKITTI) -> Path:
    with writing_page(path, 'a title', table) as page:
        for scan in scans:
            page.add(scan)
    return path


def test_positions_come_back_within_half_a_step(tmp_path: Path) -> None:
    scan = random_scan(20_000)
    (decoded,) = decode_page(write(tmp_path / 'page.html', scan))
    # 160 m, 120 m and 15 m wide: a step is that by 65535, thus 2.45, 1.84 and 0.23 mm at most
    assert (np.array(decoded.facts['step']) <= [160 / 65535, 120 / 65535, 15 / 65535]).all()
    error_m = np.abs(decoded.xyz() - scan.points[:, :3])
    assert (error_m <= np.array(decoded.facts['step']) / 2 + 1e-9).all()


def test_labels_truth_probability_and_intensity_come_back(tmp_path: Path) -> None:
    scan = random_scan(5_000)
    (decoded,) = decode_page(write(tmp_path / 'page.html', scan))
    assert scan.truth is not None
    assert scan.probability is not None
    np.testing.assert_array_equal(decoded.planes['label'], scan.labels)
    np.testing.assert_array_equal(decoded.planes['truth'], scan.truth)
    assert np.abs(decoded.planes['probability'] / 255 - scan.probability).max() <= 0.5 / 255 + 1e-6
    low, high = decoded.facts['intensity']
    shown = low + (high - low) * decoded.planes['intensity'] / 255
    assert np.abs(shown - np.minimum(scan.points[:, 3], high)).max() <= 0.5 / 255 + 1e-6


def test_what_is_not_known_is_not_there(tmp_path: Path) -> None:
    scan = replace(random_scan(50), truth=None, probability=None)
    (decoded,) = decode_page(write(tmp_path / 'page.html', scan))
    assert not {'truth', 'probability'} & set(decoded.facts['planes'])


def test_120000_points_take_less_than_2_mb_and_the_most_less_than_5(tmp_path: Path) -> None:
    # noise does not deflate: this is the worst there is
    small = write(tmp_path / 'small.html', random_scan(120_000))
    large = write(tmp_path / 'large.html', random_scan(2 * MOST_POINTS))
    assert small.stat().st_size < 2_000_000
    assert large.stat().st_size < 5_000_000
    (decoded,) = decode_page(large)
    assert decoded.facts['count'] == MOST_POINTS
    assert decoded.facts['total'] == 2 * MOST_POINTS


def test_points_that_are_nowhere_or_kilometres_away_are_told_and_not_drawn(tmp_path: Path) -> None:
    scan = random_scan(1_000)
    scan.points[3, 1], scan.points[4, 2] = np.nan, np.inf
    scan.points[5, 0] = 40_000
    (decoded,) = decode_page(write(tmp_path / 'page.html', scan))
    kept = np.delete(np.arange(1_000), [3, 4, 5])
    np.testing.assert_array_equal(decoded.planes['label'], scan.labels[kept])
    assert decoded.facts['notes'] == ['2 not finite', '1 further than 300 m']


@pytest.mark.parametrize('count', [0, 1])
def test_a_scan_of_hardly_any_points_is_a_page(tmp_path: Path, count: int) -> None:
    (decoded,) = decode_page(write(tmp_path / 'page.html', random_scan(count)))
    assert decoded.facts['count'] == count
    np.testing.assert_allclose(decoded.xyz(), random_scan(count).points[:, :3])


def test_boxes_stand_where_the_objects_are(tmp_path: Path) -> None:
    """A car of 4 x 2 x 1.5 m, seen on all sides, whose middle is at (10, 5, 0.75)."""
    generator = np.random.default_rng(1)
    offsets = generator.uniform(-1, 1, (4_000, 3)) * (2, 1, 0.75)
    points = np.column_stack([offsets + (10, 5, 0.75), np.zeros(4_000)]).astype(np.float32)
    sure = np.full(4_000, 0.75, np.float32)
    labels = np.zeros(4_000, np.uint8)
    scan = PageScan(name='car', points=points, labels=labels, probability=sure)
    (decoded,) = decode_page(write(tmp_path / 'page.html', scan))
    (box,) = decoded.facts['boxes']
    assert (box['number'], box['class'], box['points']) == (1, 0, 4_000)
    assert box['confidence'] == 0.75
    np.testing.assert_allclose(box['centre'], (10, 5, 0.75), atol=0.05)
    np.testing.assert_allclose(box['size'], (4, 2, 1.5), atol=0.1)
    assert abs(box['yaw']) < np.radians(3)
    assert (decoded.planes['instance'] == 1).all()


def test_objects_are_not_looked_for_where_everything_moves(tmp_path: Path) -> None:
    scan = random_scan(20_000)
    scan.labels[:9_000] = 0  # 45 % cars
    (decoded,) = decode_page(write(tmp_path / 'page.html', scan))
    assert decoded.facts['boxes'] != []  # 9,000 points are soon looked through
    assert decoded.facts['notes'] == []
    scan.labels[:10_001] = 0
    (decoded,) = decode_page(write(tmp_path / 'page.html', scan))
    assert decoded.facts['boxes'] == []
    assert decoded.facts['notes'] == ['50% movable: no objects looked for']


def test_rings_lie_on_the_ground(tmp_path: Path) -> None:
    scan = random_scan(4_000)
    on_road = scan.labels == SEMANTICKITTI.names.index('road')
    scan.points[on_road, 2] = -1.73
    scan.points[on_road, :2] /= 10  # around the sensor
    (decoded,) = decode_page(write(tmp_path / 'page.html', scan))
    assert -1.74 < decoded.facts['ground'] < -1.6


def test_no_name_ends_the_script_or_the_title(tmp_path: Path) -> None:
    names = (EVIL, *SEMANTICKITTI.names[1:])
    table = replace(SEMANTICKITTI, names=names, groups={}, hard=())
    path = tmp_path / 'page.html'
    with writing_page(path, EVIL, table) as page:
        page.add(replace(random_scan(20), name=EVIL))
    text = path.read_text(encoding='utf-8')
    assert EVIL not in text
    assert html.escape(EVIL) in text
    (found,) = re.findall('id="page-facts">([^<]*)</script>', text)
    assert json.loads(found)['classes'][0]['name'] == EVIL
    assert decode_page(path)[0].facts['name'] == EVIL


def test_the_page_names_no_other_place(tmp_path: Path) -> None:
    """Nothing is fetched: no address, no import, and a policy that forbids both."""
    text = write(tmp_path / 'page.html', random_scan(20)).read_text(encoding='utf-8')
    assert "default-src 'none'" in text
    assert not re.search(r'https?:|\bimport\b|url\(|\ssrc=|<link', text)
    assert '{{' not in text.replace('${{', '')


def test_classes_are_sorted_into_things_surfaces_and_structures(tmp_path: Path) -> None:
    text = write(tmp_path / 'page.html', table=NUSCENES).read_text(encoding='utf-8')
    (found,) = re.findall('id="page-facts">([^<]*)</script>', text)
    sorts = {each['name']: each['sort'] for each in json.loads(found)['classes']}
    assert sorts['car'] == sorts['traffic_cone'] == 'movable'
    assert sorts['driveable_surface'] == 'surface'
    assert sorts['vegetation'] == 'structure'


def test_a_page_that_was_broken_off_is_not_there(tmp_path: Path) -> None:
    scan = random_scan(20)
    short = replace(scan, labels=scan.labels[:7])
    with pytest.raises(DataError, match="'labels': 7.*do not belong together"):
        write(tmp_path / 'page.html', scan, short)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_told_in_a_sentence() -> None:
    with pytest.raises(DataError, match='cannot be written'):
        write(Path('/dev/null/page.html'), random_scan(20))


def test_of_many_scans_the_first_the_last_and_some_between_are_shown() -> None:
    assert list(choose_page_rows(3, 5)) == [0, 1, 2]
    assert list(choose_page_rows(101, 5)) == [0, 25, 50, 75, 100]

# SPDX-License-Identifier: Apache-2.0
"""Reports say what the confusion says, in every format, with the convention's name."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
import pytest

from lidar_kd.labels import SEMANTICKITTI
from training.reports.draw import draw_confusion, draw_curves
from training.reports.report import (
    as_csv,
    as_json,
    as_markdown,
    as_text,
    choose_spread,
    figures,
    Result,
    tables,
    write_report,
)
from training.scores.metrics import Confusion

NAMES = list(SEMANTICKITTI.names)
CAR, ROAD, PERSON = (NAMES.index(name) for name in ('car', 'road', 'person'))


@pytest.fixture
def result() -> Result:
    confusion = Confusion(19)
    # car 3 points, 2 right; road 4, all right and 1 car taken for it; person 1, without an answer
    truth = [CAR, CAR, CAR, ROAD, ROAD, ROAD, ROAD, PERSON]
    answer = [CAR, CAR, ROAD, ROAD, ROAD, ROAD, ROAD, 255]
    confusion.add(truth, answer, np.array([1, 20, 20, 1, 1, 60, 60, 30.0]))
    return Result(
        title='tiny', table=SEMANTICKITTI, confusion=confusion, facts={'data': 'by hand'},
        latency_ms=[5.0, 7.0, 30.0],
    )  # fmt: skip


def test_figures_are_those_worked_out_by_hand(result: Result) -> None:
    flat = figures(result)
    assert flat['iou_car'] == pytest.approx(2 / 3)
    assert flat['iou_road'] == pytest.approx(4 / 5)
    assert (flat['iou_person'], flat['iou_truck']) == (0, None)
    assert flat['miou_semantickitti'] == flat['miou'] == pytest.approx((2 / 3 + 4 / 5) / 19)
    assert flat['miou_nuscenes'] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert flat['miou_occurring'] == pytest.approx((2 / 3 + 4 / 5) / 3)
    assert (flat['hard_miou'], flat['unanswered'], flat['points']) == (0, 1, 8)
    assert (flat['accuracy'], flat['latency_ms']) == (6 / 8, 7)
    # 10-25 m: one car right, one taken for road
    assert (flat['miou_10_25_m'], flat['miou_above_50_m']) == (0.5, 1)


def test_the_tables_name_conventions_points_and_distances(result: Result) -> None:
    means, classes, ranges = tables(result)
    assert [row[0] for row in means.rows] == [
        'SemanticKITTI official: absent class = 0',
        'nuScenes official: absent class left out',
        'classes that occur in the truth',
    ]
    assert [row[2] for row in means.rows] == ['7.72', '73.33', '48.89']
    rows = {row[0]: row[1:] for row in classes.rows}
    assert rows['car'] == ('3', '66.67', '100.00', '50.00', '-', '-')
    assert rows['person (hard)'][:2] == ('1', '0.00')
    assert rows['truck (hard)'][:2] == ('0', '-')
    hard = [name.endswith('(hard)') for name in rows]
    assert hard == sorted(hard)  # apart, below the others
    assert ('> 50 m', '2', '1', '100.00') in ranges.rows


def test_every_format_says_the_same(result: Result) -> None:
    text, markdown = as_text(result), as_markdown(result)
    for written in (text, markdown):
        assert 'tiny' in written
        assert 'by hand' in written
        assert '66.67' in written
        assert '1 points: misses, except under the nuScenes convention' in written
        assert '7 ms per scan in the median, 5 to 30' in written
    assert '| car | 3 | 66.67 |' in markdown
    document = json.loads(as_json(result))
    assert document['figures'] == figures(result)
    assert document['confusion'][CAR][ROAD] == document['confusion'][PERSON][19] == 1
    rows = {row['class']: row for row in csv.DictReader(as_csv(result).splitlines())}
    assert float(rows['car']['iou']) == pytest.approx(2 / 3)
    assert (rows['truck']['iou'], rows['person']['hard']) == ('', '1')


def test_an_empty_truth_makes_a_report_too(tmp_path: Path) -> None:
    empty = Result(title='empty', table=SEMANTICKITTI, confusion=Confusion(19))
    written = write_report(tmp_path, empty)
    assert all(path.stat().st_size for path in written)
    assert json.loads((tmp_path / 'report.json').read_text())['figures']['miou_occurring'] is None


def test_curves_are_drawn_where_there_is_a_history(result: Result, tmp_path: Path) -> None:
    assert 'curves.png' not in {path.name for path in write_report(tmp_path, result)}
    rows: list[dict[str, Any]] = [
        {'step': 10, 'loss': 2.0, 'ce': 1.5, 'lr': 1e-3},
        {'step': 20, 'loss': math.inf, 'ce': 1.0, 'pvkd.late': 0.1},
        {'step': 20, 'miou': 0.3, 'hard_miou': None, 'iou': [0.3]},
    ]
    write_report(tmp_path, result, rows)
    with Image.open(tmp_path / 'curves.png') as picture:
        assert picture.width > 1000
    assert draw_curves([{'step': 1, 'loss': math.nan}]) is not None
    assert draw_curves([]) is None


def test_a_wrong_answer_darkens_its_cell(result: Result) -> None:
    right = Confusion(19)
    right.add([CAR], [CAR], [1.0])
    wrong = Confusion(19)
    wrong.add([CAR], [ROAD], [1.0])
    first, second = (draw_confusion(each, SEMANTICKITTI) for each in (right, wrong))
    dark = [np.argwhere(each.sum(-1) < 200)[:, 1].mean() for each in (first, second)]
    assert first.shape == second.shape
    assert dark[1] > dark[0]  # the column of road is to the right of that of car


def test_pictures_are_spread_over_the_set() -> None:
    assert choose_spread(9, 3) == [1, 4, 7]
    assert choose_spread(2, 5) == [0, 1]
    assert choose_spread(5, 0) == []

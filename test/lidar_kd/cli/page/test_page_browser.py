# SPDX-License-Identifier: Apache-2.0
"""The page in a headless Chromium: it draws, without a complaint, and does what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
import re

from browser import browsing, find_browser, Tab
import numpy as np
import pytest

from lidar_kd.cli.page import PageScan, writing_page
from lidar_kd.labels import SEMANTICKITTI

BROWSER = find_browser()
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason='no Chromium here: apt-get install chromium'),
    pytest.mark.xdist_group('browser'),
]
POINTS = 120_000
ODD = 'road</script><b>'  # the name of a class
NAMES = tuple(ODD if name == 'road' else name for name in SEMANTICKITTI.names)
TABLE = replace(SEMANTICKITTI, names=NAMES, groups={}, hard=())
CAR, PERSON, ROAD, BUILDING = map(SEMANTICKITTI.names.index, ['car', 'person', 'road', 'building'])
SIZE = (900, 560)
STAGE = (slice(90, 480), slice(80, 540))  # of the screen: the picture, without words and buttons


def make_street(number: int) -> PageScan:
    """A road, a wall on the left, and a car that drives on with the number of the scan.

    At the sensor stands a person that is taken for a car with 75 %.
    """
    generator = np.random.default_rng(number)
    road = generator.uniform((-30, -12, -1.75), (30, 8, -1.7), (POINTS // 2, 3))
    wall = generator.uniform((-30, 11.9, -1.7), (30, 12, 6), (POINTS // 2 - 5_000, 3))
    car = generator.uniform((6 + number, -4, -1.6), (10 + number, -2, -0.1), (4_000, 3))
    person = generator.uniform((-0.4, -0.4, -0.1), (0.4, 0.4, 0.1), (1_000, 3))
    parts = [(road, ROAD), (wall, BUILDING), (car, CAR), (person, PERSON)]
    truth = np.concatenate([np.full(len(xyz), label, np.uint8) for xyz, label in parts])
    xyz = np.concatenate([xyz for xyz, _ in parts])
    intensity = generator.random(POINTS)
    probability = np.clip(np.abs(xyz[:, 0]) / 30, 0, 1)
    probability[truth == PERSON] = 0.75
    return PageScan(
        name=f'00/{number:06}',
        points=np.column_stack([xyz, intensity]).astype(np.float32),
        labels=np.where(truth == PERSON, CAR, truth).astype(np.uint8),
        truth=truth,
        probability=probability.astype(np.float32),
    )


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('page') / 'page.html'
    with writing_page(path, 'a street', TABLE) as writer:
        for number in range(3):
            writer.add(make_street(number))
    return path


@pytest.fixture(scope='module')
def browser() -> Iterator[Tab]:
    assert BROWSER is not None
    with browsing(BROWSER, SIZE) as opened:
        yield opened


@pytest.fixture
def tab(browser: Tab, page: Path) -> Iterator[Tab]:
    """The page from above, afresh; whatever is complained about fails the test."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.resize(*SIZE)
    open_street(browser, page)
    yield browser
    assert browser.complaints == []


def open_street(tab: Tab, page: Path) -> None:
    tab.open(page, '#theme=dark&view=top')
    tab.wait_for("document.querySelector('#counter').textContent === '1 / 3'")
    tab.wait_for("document.querySelector('#facts').textContent.includes('points')")


def stage(tab: Tab) -> np.ndarray:
    return tab.screenshot()[STAGE].astype(int)


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """The share of pixels that clearly differ."""
    return float((np.abs(after - before).max(2) > 12).mean())


def press_class(tab: Tab, class_id: int, *, times: int = 1) -> None:
    box = tab.evaluate(
        f'JSON.stringify(document.querySelector(\'[data-class="{class_id}"]\')'
        '.getBoundingClientRect())'
    )
    x, y = (float(re.findall(f'"{key}":([0-9.]+)', box)[0]) for key in 'xy')
    tab.click(x + 40, y + 10, times=times)


def test_it_draws_120000_points_and_asks_for_nothing_else(tab: Tab) -> None:
    assert tab.text('#name') == '00/000000'
    assert '120,000 points' in tab.text('#facts')
    assert '99.2 % right' in tab.text('#facts')  # 1,000 of 120,000 are wrong
    picture = stage(tab)
    tab.press('a')  # nothing is hidden: nothing changes
    assert changed(picture, stage(tab)) == 0
    # the road takes 20 of the 88 m that the picture from above is high, along its whole width
    drawn = (np.abs(picture - picture[0, 0]).max(2) > 30).mean()
    assert drawn > 0.2
    assert {url.partition(':')[0] for url in tab.requests} == {'file'}


def test_every_colouring_has_a_picture_of_its_own(tab: Tab) -> None:
    pictures = []
    for key in '1234567':
        tab.press(key)
        pictures.append(stage(tab))
    pairs = [(a, b) for b in range(7) for a in range(b)]
    same = [pair for pair in pairs if changed(pictures[pair[0]], pictures[pair[1]]) < 0.02]
    # label and truth differ in the person alone, 1 of 88 m
    assert same == [(0, 1)]
    assert changed(pictures[0], pictures[1]) > 0


def test_a_class_hides_and_comes_back(tab: Tab) -> None:
    whole = stage(tab)
    press_class(tab, ROAD)
    hidden = stage(tab)
    assert changed(whole, hidden) > 0.15
    press_class(tab, ROAD)
    assert changed(whole, stage(tab)) == 0
    press_class(tab, CAR, times=2)
    alone = stage(tab)
    assert changed(hidden, alone) > 0
    tab.click(*find_middle(tab, '#all'))
    assert changed(whole, stage(tab)) == 0


def find_middle(tab: Tab, selector: str) -> tuple[float, float]:
    parts = tab.evaluate(
        f"(() => {{ const b = document.querySelector('{selector}').getBoundingClientRect();"
        'return `${b.x + b.width / 2} ${b.y + b.height / 2}`; })()'
    )
    x, y = map(float, parts.split())
    return x, y


def test_the_legend_counts_and_names(tab: Tab) -> None:
    rows = tab.evaluate("[...document.querySelectorAll('.class')].map(r => r.innerText).join('|')")
    # 60,000 road, 55,000 wall, 4,000 car and 1,000 taken for it, of 120,000
    assert rows.replace('\n', ' ').split('|') == [
        f'{ODD} 50.0 %', 'building 45.8 %', 'car 4.2 %',
    ]  # fmt: skip


def test_a_click_tells_what_a_point_is(tab: Tab) -> None:
    tab.click(*find_middle(tab, '#stage'))  # the sensor, seen from above
    card = tab.evaluate("document.querySelector('#picked').innerText").split('\n')
    told = dict(zip(card[1::2], card[2::2]))
    assert card[0] == 'car'
    assert told['truth'] == 'person'
    assert told['probability'] == '74.9 %'  # 191 of 255
    assert float(told['range'].removesuffix(' m')) < 0.6
    tab.press('Escape')
    assert tab.evaluate("document.querySelector('#picked').hidden")


def test_scans_are_stepped_through_by_keys_and_played(tab: Tab) -> None:
    first = stage(tab)
    tab.press('ArrowRight')
    tab.wait_for("document.querySelector('#name').textContent === '00/000001'")
    assert changed(first, stage(tab)) > 0
    tab.press('ArrowLeft')
    tab.press('ArrowLeft')  # round to the last
    tab.wait_for("document.querySelector('#name').textContent === '00/000002'")
    tab.press(' ')
    tab.wait_for("document.querySelector('#counter').textContent === '2 / 3'")
    tab.press(' ')
    assert tab.evaluate("document.querySelector('#play').getAttribute('aria-pressed')") == 'false'


def test_boxes_are_drawn_where_objects_are(tab: Tab) -> None:
    assert '2 objects' in tab.text('#facts')
    shown = stage(tab)
    tab.press('b')
    assert changed(shown, stage(tab)) > 0


def test_light_is_light_and_dark_is_dark(tab: Tab) -> None:
    assert tab.screenshot().mean() < 90
    tab.press('l')
    assert tab.screenshot().mean() > 170


def test_two_fingers_zoom_and_one_turns(tab: Tab, page: Path) -> None:
    tab.resize(400, 700, phone=True)
    tab.call('Emulation.setTouchEmulationEnabled', enabled=True)
    open_street(tab, page)
    before = tab.screenshot().astype(int)
    tab.touch('touchStart', [(150, 300), (250, 300)])
    tab.touch('touchMove', [(100, 300), (300, 300)])
    tab.touch('touchEnd', [])
    zoomed = tab.screenshot().astype(int)
    assert changed(before, zoomed) > 0.05
    tab.touch('touchStart', [(150, 300)])
    tab.touch('touchMove', [(220, 300)])
    tab.touch('touchEnd', [])
    assert changed(zoomed, tab.screenshot().astype(int)) > 0.05
    tab.call('Emulation.setTouchEmulationEnabled', enabled=False)


def test_the_wheel_and_the_mouse_move_the_picture(tab: Tab) -> None:
    before = stage(tab)
    x, y = find_middle(tab, '#stage')
    tab.call('Input.dispatchMouseEvent', type='mouseWheel', x=x, y=y, deltaX=0, deltaY=-300)
    near = stage(tab)
    assert changed(before, near) > 0.05
    for kind, right in (('mousePressed', 0), ('mouseMoved', 30), ('mouseMoved', 80)):
        tab.call(
            'Input.dispatchMouseEvent', type=kind, x=x + right, y=y, button='left', buttons=1,
        )  # fmt: skip
    tab.call('Input.dispatchMouseEvent', type='mouseReleased', x=x + 80, y=y, button='left')
    assert changed(near, stage(tab)) > 0.05
    assert tab.evaluate("document.querySelector('#picked').hidden")  # a drag is no click

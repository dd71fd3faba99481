# SPDX-License-Identifier: Apache-2.0
"""Bird's-eye views put points where they belong and survive odd scans."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
import pytest

from lidar_kd.cli.birdview import draw_panel, Panel
from lidar_kd.cli.picture import draw_scan, draw_truth_and_answer, save_picture
from lidar_kd.errors import DataError
from lidar_kd.labels import IGNORE, IGNORED_COLOUR, SEMANTICKITTI

RED, BLUE = (250, 1, 2), (3, 4, 250)


def draw(
    points: Sequence[Sequence[float]],
    colours: Sequence[tuple[int, int, int]],
    layers: Sequence[int],
    side_px: int = 400,
) -> NDArray[np.uint8]:
    panel = Panel(title='', colours=np.array(colours, np.uint8), layers=np.array(layers, np.uint8))
    return draw_panel(np.array(points, np.float32), panel, 50.0, side_px)


def find(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """Mean (row, column) of a colour; NaN where it does not occur."""
    places = np.argwhere((picture == colour).all(-1))
    return places.mean(0) if len(places) else np.full(2, np.nan)


def count(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(-1).sum())


def test_x_points_up_and_y_points_to_the_left() -> None:
    picture = draw([[30, 0, 0], [0, 30, 0]], [RED, BLUE], [0, 0])
    # 400 px show 2 x 50 m x 1.03: 30 m are 200 x 30 / 51.5 = 116.5 px from the centre at 200
    np.testing.assert_allclose(find(picture, RED), [83.5, 200], atol=2)
    np.testing.assert_allclose(find(picture, BLUE), [200, 83.5], atol=2)


@pytest.mark.parametrize('heights', [(2, 1), (1, 2)])
def test_the_higher_point_hides_the_lower_one_in_any_order(heights: tuple[int, int]) -> None:
    colours = [RED if height == 2 else BLUE for height in heights]
    picture = draw([[20, 5, height] for height in heights], colours, [0, 0])
    assert count(picture, RED) > 0
    assert count(picture, BLUE) == 0


def test_a_higher_layer_hides_a_higher_point() -> None:
    picture = draw([[20, 5, 9], [20, 5, 1]], [BLUE, RED], [0, 1])
    assert count(picture, BLUE) == 0
    assert count(picture, RED) > 0


def test_far_points_are_drawn_larger_than_near_ones() -> None:
    picture = draw([[5, 5, 0], [-45, 5, 0]], [RED, BLUE], [0, 0], side_px=1200)
    assert count(picture, BLUE) > count(picture, RED) >= 1


def test_points_out_of_view_and_not_finite_are_left_out() -> None:
    nan, inf = float('nan'), float('inf')
    odd: list[list[float]] = [[500, 0, 0], [nan, 1, 1], [1, inf, 1], [9, 9, nan]]
    assert count(draw(odd, [RED] * 4, [1] * 4), RED) == 0


def test_a_scan_is_drawn_at_1600_by_1200_with_its_classes_in_the_legend() -> None:
    points = np.array([[10, 3, 0, 0], [-10, 3, 0, 0], [10, -20, 0, 0]], np.float32)
    labels = np.array([0, 8, IGNORE], np.uint8)  # car, road, no label
    picture = draw_scan(points, labels, SEMANTICKITTI, title='a scan')
    assert picture.shape == (1200, 1600, 3)
    legend = picture[:, 1130:]
    for colour in (SEMANTICKITTI.palette[0], SEMANTICKITTI.palette[8], IGNORED_COLOUR):
        assert count(legend, colour) > 100
    assert count(legend, SEMANTICKITTI.palette[13]) == 0  # no fence in this scan


def test_every_class_of_the_table_fits_the_legend() -> None:
    labels = np.array([*range(19), IGNORE], np.uint8)
    points = np.ones((20, 4), np.float32)
    picture = draw_truth_and_answer(points, labels, labels, SEMANTICKITTI, title='all')
    legend = picture[:-90, -400:]  # the notes below stay free
    assert all(count(legend, colour) > 50 for colour in SEMANTICKITTI.palette)
    assert count(legend, IGNORED_COLOUR) > 50


@pytest.mark.parametrize(
    'points',
    [
        np.zeros((0, 4), np.float32),
        np.full((5, 4), np.nan, np.float32),
        np.full((5, 4), 1e30, np.float32),
        np.zeros((1, 4), np.float32),
    ],
    ids=['no points', 'all NaN', 'all far away', 'one at the sensor'],
)
def test_odd_scans_are_drawn(points: NDArray[np.float32]) -> None:
    labels = np.full(len(points), IGNORE, np.uint8)
    assert draw_scan(points, labels, SEMANTICKITTI, height_px=300).shape == (300, 400, 3)


def test_errors_are_red_where_labelled_points_differ_only() -> None:
    points = np.array([[10, 5, 0, 0], [-10, 5, 0, 0], [10, -5, 0, 0]], np.float32)
    truth = np.array([0, 8, IGNORE], np.uint8)
    prediction = np.array([0, 9, 8], np.uint8)  # right, wrong, no truth to compare with
    picture = draw_truth_and_answer(points, truth, prediction, SEMANTICKITTI, height_px=600)
    red = np.argwhere((picture == (255, 64, 64)).all(-1))
    # one small square, at x = -10: in the lower half of the third panel
    assert 0 < len(red) <= 16
    assert red[:, 0].min() > 300
    assert red[:, 1].min() > picture.shape[1] / 2


def test_a_saved_picture_is_a_png_and_nothing_else_is_left(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    save_picture(tmp_path / 'a.png', picture)
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']
    with Image.open(tmp_path / 'a.png') as image:
        assert (image.format, image.size) == ('PNG', (6, 4))


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='cannot be written'):
        save_picture(tmp_path / 'missing' / 'a.png', np.zeros((4, 6, 3), np.uint8))

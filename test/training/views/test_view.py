# SPDX-License-Identifier: Apache-2.0
"""The viewer colours points by what is known, and its pictures put them where a camera would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
import pytest
from tiny import write_bundle, write_kitti

from lidar_kd.bundle import load_bundle
from lidar_kd.errors import ConfigError
from lidar_kd.labels import NUSCENES, SEMANTICKITTI
from lidar_kd.segmenter import Segmenter
from training import view
from training.view import guess_kind, main, make_view_parser, open_answers, open_shown_scans
from training.views.perspective import annotate, Camera, draw_perspective
from training.views.scenes import colour_intensity, Scenes

RED, BLUE = (250, 0, 0), (0, 0, 250)
CAMERA = Camera(eye=(-10, 0, 0), target=(0, 0, 0), view_deg=90, width=200, height=100)


def place_of(picture: np.ndarray, channel: int) -> np.ndarray:
    """Mean (row, column) of what is bright in one channel."""
    return np.argwhere(picture[..., channel] > 150).mean(0)


def draw(points: list[list[float]], colours: list[tuple[int, int, int]]) -> np.ndarray:
    return draw_perspective(np.array(points, np.float32), np.array(colours, np.uint8), CAMERA)


def test_a_point_is_where_a_pinhole_camera_puts_it() -> None:
    # 90 degrees over 200 px: 100 px per unit of x/z; 2 m to the left and 1 m up at a depth of 10 m
    picture = draw([[0, 2, 1, 0]], [RED])
    assert picture.shape == (100, 200, 3)
    assert place_of(picture, 0) == pytest.approx([50 - 10, 100 - 20], abs=1)


def test_near_points_hide_far_ones_and_those_behind_the_camera_are_not_drawn() -> None:
    near, far, behind = [-5.0, 0, 0, 0], [5.0, 0, 0, 0], [-30.0, 0, 0, 0]
    for order in ((0, 1, 2), (2, 1, 0)):
        places, colours = [near, far, behind], [RED, BLUE, BLUE]
        picture = draw([places[i] for i in order], [colours[i] for i in order])
        assert place_of(picture, 0) == pytest.approx([50, 100], abs=1)
        assert not (picture[..., 2] > 150).any()


def test_odd_points_do_not_stop_a_picture() -> None:
    assert draw([[np.nan, 0, 0, 0], [np.inf, 0, 0, 0]], [RED, RED]).max() < 150
    empty = draw_perspective(np.zeros((0, 4), np.float32), np.zeros((0, 3), np.uint8), CAMERA)
    assert annotate(empty, 'nothing', [(RED, 'car')]).shape == empty.shape


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    """Two scans, all answered car."""
    return Scenes(write_kitti(tmp_path), lambda scan: np.zeros(len(scan), np.uint8))


def test_colours_follow_what_is_asked_for(scenes: Scenes, tmp_path: Path) -> None:
    scans = write_kitti(tmp_path)
    labels = scans[0].labels
    assert scenes.colourings(0) == ['prediction', 'labels', 'errors', 'intensity']
    scene = scenes.scene(0, 'labels')
    assert (scene.colours == SEMANTICKITTI.colour(labels)).all()
    assert {name for _, name in scene.legend} == {'car', 'road', 'building', 'vegetation'}
    assert [name for _, name in scenes.scene(0, 'prediction').legend] == ['car']
    share = (labels[labels != 255] != 0).mean()
    assert scenes.scene(0, 'errors').legend[0][1] == f'wrong: {share:.1%} of the labelled points'
    errors = scenes.scene(0, 'errors').colours
    wrong = (labels != 255) & (labels != 0)
    assert (errors[wrong] == errors[wrong][0]).all()
    assert not (errors[~wrong] == errors[wrong][0]).all(1).any()


def test_without_answers_there_are_no_errors(tmp_path: Path) -> None:
    scenes = Scenes(write_kitti(tmp_path), None)
    assert scenes.colourings(0) == ['labels', 'intensity']
    with pytest.raises(ConfigError, match="'errors' needs labels, and --bundle"):
        scenes.scene(0, 'errors')


def test_stronger_returns_are_brighter() -> None:
    colours = colour_intensity(np.linspace(0, 1, 50, dtype=np.float32)).sum(1, dtype=int)
    assert colours[0] < colours[25] < colours[-1]
    assert colour_intensity(np.zeros(3, np.float32)).shape == (3, 3)


class FakeWindow:
    """Counts what Open3D would draw."""

    drawn = 0

    def add_geometry(self, cloud: Any) -> None:
        self.cloud = cloud

    def update_geometry(self, cloud: Any) -> None:
        self.drawn += 1


def test_keys_go_through_scans_and_colourings(scenes: Scenes) -> None:
    told: list[str] = []
    window = FakeWindow()
    pytest.importorskip('open3d')
    from training.views.window3d import Browser

    browser = Browser(window, scenes, 0, 'labels', told.append)
    assert len(window.cloud.points) == 60
    assert browser.next(window)
    assert browser.next(window)  # around the end
    assert browser.previous(window)
    assert [line.split()[0] for line in told] == ['1/2', '2/2', '1/2', '2/2']
    for _ in range(4):
        assert browser.recolour(window)
    assert [line.split()[2] for line in told[4:]] == [
        'errors',
        'intensity',
        'prediction',
        'labels',
    ]
    assert window.drawn == 7


def test_without_a_window_a_picture_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kitti(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(view, 'has_display', lambda: True)
    pytest.importorskip('open3d')
    monkeypatch.setattr('training.views.window3d.show_window', lambda *arguments: False)
    assert main([str(tmp_path)]) == 0
    with Image.open('view.png') as picture:
        assert picture.size == (1600, 1000)


def test_one_scan_and_a_bundle_make_a_picture(tmp_path: Path) -> None:
    scans, bundle = write_kitti(tmp_path), write_bundle(tmp_path / 'a.safetensors')
    picture = tmp_path / 'p.png'
    words = [str(scans.frames[0].scan), '--bundle', str(bundle), '--picture', str(picture)]
    assert main(words) == 0
    assert picture.stat().st_size > 0


def test_a_scan_without_labels_has_the_classes_and_the_intensity_of_the_bundle(
    tmp_path: Path,
) -> None:
    bundle = write_bundle(tmp_path / 'a.safetensors', NUSCENES)
    points = np.random.default_rng(0).uniform(0, 255, (60, 4)).astype(np.float32)
    points.tofile(tmp_path / 'a.bin')
    options = make_view_parser().parse_args([str(tmp_path / 'a.bin'), '--bundle', str(bundle)])
    scans, answer = open_answers(options, open_shown_scans(options), load_bundle(bundle))
    assert scans.table == NUSCENES
    in_shares = points * np.array([1, 1, 1, 1 / 255], np.float32)
    expected = Segmenter(load_bundle(bundle)).segment(in_shares).labels
    assert answer is not None
    assert (answer(scans[0]) == expected).all()
    assert (answer(scans[0]) != Segmenter(load_bundle(bundle)).segment(points).labels).any()


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['nowhere'], 'nowhere: no such folder'),
        (['{root}', '--scan', '2'], '--scan 2: there are scans 0 to 1'),
        (['{root}', '--colour', 'prediction'], "'prediction' needs --bundle or --predictions"),
        (['{root}/note.txt'], 'note.txt: no scan that can be read'),
        (['{root}', '--picture', '{root}/note.txt/a.png'], 'cannot be written'),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_kitti(tmp_path)
    (tmp_path / 'note.txt').write_text('hello')
    (tmp_path / 'other.bin').write_bytes(b'\0' * 16)
    monkeypatch.setattr(view, 'has_display', lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main([word.format(root=tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count('\n') == 1


def test_the_layout_is_found_out(tmp_path: Path) -> None:
    write_kitti(tmp_path)
    assert guess_kind(tmp_path) == guess_kind(tmp_path / 'sequences') == 'semantickitti'
    assert guess_kind(tmp_path / 'sequences' / '08' / 'velodyne') == 'folder'
    (tmp_path / 'n' / 'v1.0-mini').mkdir(parents=True)
    (tmp_path / 'n' / 'v1.0-mini' / 'scene.json').write_text('[]')
    assert guess_kind(tmp_path / 'n') == 'nuscenes'
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'metadata.yaml').write_text('')
    assert guess_kind(tmp_path / 'bag') == 'bags'

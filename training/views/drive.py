# SPDX-License-Identifier: Apache-2.0
"""A labelled drive from above: the scan in the classes' colours under its boxes, and what is left
of it for SLAM.
"""

from __future__ import annotations

from collections.abc import Iterable
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lidar_kd.cli.birdview import draw_panel, Panel, place_pixels
from lidar_kd.cli.page import choose_page_rows, PageScan, writing_page
from lidar_kd.cli.picture import draw_scan, draw_truth_and_answer, save_picture
from lidar_kd.cloud import decode
from lidar_kd.labels import ClassTable, IGNORE
from training.live.outline import Outline
from training.views.animation import save_animation

if TYPE_CHECKING:
    from training.live.listener import Listener, Received

STRIP, STRIP_PX = 5, 480  # views side by side
RANGE_M = 40.0
FRAMES, FRAME_PX, FRAME_MS = 24, 400, 200  # of the animation
ANIMATION_RANGE_M = 30.0
PAGE_SCANS = 25
MOVING, RESTING = (255, 255, 255), (190, 196, 208)
LEFT = (150, 190, 255)  # what is left without movable things
Points = NDArray[np.float32]
Picture = NDArray[np.uint8]  # (side_px, side_px, 3)
Labelled = tuple[Points, NDArray[np.uint8], NDArray[np.uint8]]  # points, truth, labels


def read_labelled(received: Received) -> Labelled:
    cloud = decode(received.cloud)
    labels = cloud.rows['label']
    is_known = 'truth' in (cloud.rows.dtype.names or ())
    truth = cloud.rows['truth'] if is_known else np.full(len(labels), IGNORE, np.uint8)
    return cloud.points, truth, labels


def draw_drive(listener: Listener, table: ClassTable, out: Path) -> list[Path]:
    """A strip of views over the drive: labels and boxes, below it what is left for SLAM; and the
    middle of the drive, beside its truth where that is known.
    """
    answers = listener.kept
    chosen = [answers[i * (len(answers) - 1) // max(STRIP - 1, 1)] for i in range(STRIP)]
    rows = [
        [draw_view(received, listener, table, RANGE_M, STRIP_PX) for received in chosen],
        [draw_rest(received, listener, RANGE_M, STRIP_PX) for received in chosen],
    ]
    points, truth, labels = read_labelled(answers[len(answers) // 2])
    title = 'make demo: the middle of the drive'
    if (truth == IGNORE).all():
        full = draw_scan(points, labels, table, title=title, range_m=RANGE_M)
    else:
        full = draw_truth_and_answer(points, truth, labels, table, title=title, range_m=RANGE_M)
    paths = [out / 'strip.png', out / 'scan.png']
    strip = np.concatenate([np.concatenate(views, 1) for views in rows])
    for path, picture in zip(paths, (strip, full)):
        save_picture(path, picture)
    return paths


def draw_view(
    received: Received, listener: Listener, table: ClassTable, range_m: float, side_px: int
) -> Picture:
    """The labelled scan and its boxes from above, (side_px, side_px, 3)."""
    points, _, labels = read_labelled(received)
    view = draw_labelled_scan(points, labels, table, range_m, side_px)
    return outline_boxes(view, listener.boxes_of(received), range_m)


def draw_rest(received: Received, listener: Listener, range_m: float, side_px: int) -> Picture:
    """What ~/static left of the scan."""
    cloud = listener.static_of(received)
    points = np.zeros((0, 4), np.float32) if cloud is None else decode(cloud).points
    return draw_static_cloud(points, range_m, side_px)


def animate_drive(listener: Listener, table: ClassTable, path: Path) -> None:
    """The drive in FRAMES views, evenly spread over it."""
    answers = listener.kept
    rows = np.linspace(0, len(answers) - 1, FRAMES).round().astype(int)
    views = [draw_view(answers[i], listener, table, ANIMATION_RANGE_M, FRAME_PX) for i in rows]
    save_animation(path, views, FRAME_MS)


def write_drive_page(path: Path, answers: list[Received], table: ClassTable) -> None:
    """Some scans of the drive, to look around in with a browser."""
    with writing_page(path, 'make demo', table) as page:
        for row in choose_page_rows(len(answers), PAGE_SCANS):
            points, truth, labels = read_labelled(answers[row])
            known = truth if (truth != IGNORE).any() else None
            page.add(PageScan(name=f'scan {row}', points=points, labels=labels, truth=known))


def draw_labelled_scan(
    points: Points, labels: NDArray[np.uint8], table: ClassTable, range_m: float, side_px: int
) -> Picture:
    layers = (labels != IGNORE).astype(np.uint8)
    panel = Panel(title='', colours=table.colour(labels), layers=layers)
    return draw_panel(points, panel, range_m, side_px)


def draw_static_cloud(points: Points, range_m: float, side_px: int) -> Picture:
    colours = np.broadcast_to(np.array(LEFT, np.uint8), (len(points), 3))
    panel = Panel(title='', colours=colours, layers=np.zeros(len(points), np.uint8))
    return draw_panel(points, panel, range_m, side_px)


def outline_boxes(picture: Picture, boxes: Iterable[Outline], range_m: float) -> Picture:
    """With a line from the middle to the front of what moves."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    width = max(1, len(picture) // 320)
    for box in boxes:
        corners = place_pixels(list_corners(box), range_m, len(picture))
        colour = MOVING if box.is_moving else RESTING
        draw.line([tuple(each) for each in corners[[0, 1, 2, 3, 0]]], fill=colour, width=width)
        if box.is_moving:
            front = corners[[0, 1]].mean(0)
            draw.line([tuple(corners.mean(0)), tuple(front)], fill=colour, width=width)
    return np.asarray(canvas)


def list_corners(box: Outline) -> NDArray[np.float64]:
    """(4, 2) the two in front first, all the way round."""
    ahead, aside = box.length_m / 2, box.width_m / 2
    local = np.array([[ahead, aside], [ahead, -aside], [-ahead, -aside], [-ahead, aside]])
    cos, sin = math.cos(box.yaw), math.sin(box.yaw)
    turn = np.array([[cos, sin], [-sin, cos]])
    corners: NDArray[np.float64] = local @ turn + (box.x, box.y)
    return corners

# SPDX-License-Identifier: Apache-2.0
"""The viewer's window, on Open3D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import open3d

from lidar_kd.cli.birdview import BACKGROUND
from training.views.perspective import Camera
from training.views.scenes import Scenes


def show_window(
    scenes: Scenes, index: int, colouring: str, camera: Camera, tell: Callable[[str], None]
) -> bool:
    """Blocks until the window is closed; False where none can be opened."""
    window = open3d.visualization.VisualizerWithKeyCallback()
    if not window.create_window('lidar_kd', camera.width, camera.height):
        return False
    browser = Browser(window, scenes, index, colouring, tell)
    window.get_render_option().background_color = np.array(BACKGROUND) / 255
    window.get_render_option().point_size = 2.0
    _look(window, camera)
    for key, act in {'N': browser.next, 'P': browser.previous, 'L': browser.recolour}.items():
        window.register_key_callback(ord(key), act)
    window.run()
    window.destroy_window()
    return True


class Browser:
    """What the keys do; each returns True, which asks Open3D to draw again."""

    def __init__(
        self,
        window: Any,
        scenes: Scenes,
        index: int,
        colouring: str,
        tell: Callable[[str], None],
    ) -> None:
        self._window, self._scenes, self._tell = window, scenes, tell
        self.index, self.colouring = index, colouring
        self._cloud = open3d.geometry.PointCloud()
        self._fill()
        window.add_geometry(self._cloud)

    def next(self, window: Any) -> bool:
        return self._go(1)

    def previous(self, window: Any) -> bool:
        return self._go(-1)

    def recolour(self, window: Any) -> bool:
        known = self._scenes.colourings(self.index)
        self.colouring = known[(known.index(self.colouring) + 1) % len(known)]
        return self._draw()

    def _go(self, step: int) -> bool:
        self.index = (self.index + step) % len(self._scenes)
        known = self._scenes.colourings(self.index)
        self.colouring = self.colouring if self.colouring in known else known[0]
        return self._draw()

    def _draw(self) -> bool:
        self._fill()
        self._window.update_geometry(self._cloud)
        return True

    def _fill(self) -> None:
        scene = self._scenes.scene(self.index, self.colouring)
        finite = np.isfinite(scene.points[:, :3]).all(1)
        vectors = open3d.utility.Vector3dVector
        self._cloud.points = vectors(scene.points[finite, :3].astype(np.float64))
        self._cloud.colors = vectors(scene.colours[finite] / 255)
        self._tell(f'{self.index + 1}/{len(self._scenes)}  {scene.title}')


def _look(window: Any, camera: Camera) -> None:
    parameters = open3d.camera.PinholeCameraParameters()
    parameters.extrinsic = camera.extrinsic
    parameters.intrinsic = open3d.camera.PinholeCameraIntrinsic(
        camera.width,
        camera.height,
        camera.focal_px,
        camera.focal_px,
        camera.width / 2 - 0.5,
        camera.height / 2 - 0.5,
    )
    control = window.get_view_control()
    control.convert_from_pinhole_camera_parameters(parameters, allow_arbitrary=True)

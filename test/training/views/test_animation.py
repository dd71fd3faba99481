# SPDX-License-Identifier: Apache-2.0
"""A drive as a moving picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from training.views.animation import save_animation

COLOURS = ((255, 0, 255), (0, 175, 0), (100, 150, 245))  # road, vegetation, car


def test_a_colour_that_only_a_later_frame_has_is_kept(tmp_path: Path) -> None:
    frames = [np.full((20, 30, 3), colour, np.uint8) for colour in COLOURS]
    save_animation(tmp_path / 'drive.gif', frames, 200)
    with Image.open(tmp_path / 'drive.gif') as picture:
        assert (picture.size, picture.info['loop']) == ((30, 20), 0)  # 0: it repeats
        assert picture.info['duration'] == 200
        views = [view.convert('RGB') for view in ImageSequence.Iterator(picture)]
    assert [view.getpixel((15, 10)) for view in views] == list(COLOURS)

# SPDX-License-Identifier: Apache-2.0
"""A drive as a moving picture: bird's-eye views of its labelled scans, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lidar_kd.errors import write_atomically

COLOURS = 48  # of the palette: the classes of a drive and their surroundings


def save_animation(path: Path, frames: Sequence[NDArray[np.uint8]], frame_ms: int) -> None:
    """Writes frames (height, width, 3) as a GIF that repeats; all share one palette."""
    palette = Image.fromarray(np.concatenate(frames)).quantize(COLOURS)
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    with write_atomically(path) as temporary:
        pictures[0].save(
            temporary,
            format='GIF',
            save_all=True,
            append_images=pictures[1:],
            duration=frame_ms,
            loop=0,
            optimize=True,
        )

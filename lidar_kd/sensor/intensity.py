# SPDX-License-Identifier: Apache-2.0
"""What the numbers of an intensity mean: their full scale, and what is too large to be one."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

FULL_SCALES = (1.0, 255.0, 4095.0, 65535.0)  # of intensities: 0-1, 8 bits, 12 bits, raw
_STRAY_SHARE = 1e-3  # of the points may exceed a full scale without changing it
_STRAYS = 8  # points may where that share is less, but no more than _FEW_SHARE of those with any
_FEW_SHARE = 0.25
# 0..1 is the convention, and some networks were trained on 0..255. What a broken return has beyond
# would overflow in float16 (65504) and take the answers of everything around with it.
MOST_INTENSITY = 256.0


class IntensityRange:
    """The full scale of one sensor's intensity: it only grows, a dark scan does not change it.

    The first scan sets it; after that it takes `patience` scans in a row to raise it.
    """

    def __init__(self, patience: int = 1) -> None:
        self.full_scale = FULL_SCALES[0]
        self._recent: deque[float] = deque(maxlen=patience)  # what the last scans needed

    @property
    def settled(self) -> bool:
        """Whether a scan has set it."""
        return bool(self._recent)

    def find(self, values: NDArray[Any]) -> float:
        """values (N,) as the sensor gives them; 8-bit integers are 0-255 whatever they hold."""
        if not (values > 0).any():
            return max(self.full_scale, self._possible(values)[0])  # the dark settles nothing
        is_first = not self._recent
        self._recent.append(self._needed(values))
        if is_first or len(self._recent) == self._recent.maxlen:
            self.full_scale = max(self.full_scale, min(self._recent))
        return self.full_scale

    @staticmethod
    def _possible(values: NDArray[Any]) -> tuple[float, ...]:
        return FULL_SCALES if values.dtype.kind == 'f' else FULL_SCALES[1:]

    def _needed(self, values: NDArray[Any]) -> float:
        if values.dtype.itemsize == 1:
            return FULL_SCALES[1]
        allowed = _STRAY_SHARE * len(values)
        if allowed < _STRAYS:  # organised clouds have zeros where there was no echo
            allowed = max(allowed, min(_STRAYS, _FEW_SHARE * np.count_nonzero(values)))
        possible = self._possible(values)
        fitting = (each for each in possible if np.count_nonzero(values > each) <= allowed)
        return next(fitting, FULL_SCALES[-1])


def scale_values(values: NDArray[Any], factor: float) -> NDArray[np.float32]:
    with np.errstate(over='ignore', invalid='ignore'):
        scaled = values.astype(np.float32) * np.float32(factor)
    scaled[~np.isfinite(scaled)] = 0  # as in limit_intensity
    return scaled


def limit_intensity(intensity: NDArray[np.float32]) -> None:
    """Brings them within MOST_INTENSITY; 0 where there is none: the point itself is still good."""
    intensity[~np.isfinite(intensity)] = 0
    np.clip(intensity, -MOST_INTENSITY, MOST_INTENSITY, out=intensity)

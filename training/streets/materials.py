# SPDX-License-Identifier: Apache-2.0
"""What laser light does on each material.

Intensities are as HDL-64E reports them in KITTI: 0 to 1 in steps of 0.01, already corrected for
range by the sensor, so range takes little from them; grazing incidence takes more.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Material:
    """One row of the table."""

    intensity: float  # at normal incidence and near
    spread: float  # standard deviation of the intensity, relative
    gloss: float  # 0: matt; 1: the return fades with incidence as from a mirror
    lost: float  # share of rays without a return even at normal incidence
    dark: float  # share of returns reported with intensity 0
    rough_m: float  # standard deviation of the surface itself: grass, gravel, cloth


MATERIALS: dict[str, Material] = {
    'asphalt': Material(0.36, 0.14, 0.0, 0.002, 0.07, 0.006),
    'marking': Material(0.52, 0.25, 0.0, 0.0, 0.03, 0.002),
    'paving': Material(0.43, 0.12, 0.0, 0.001, 0.04, 0.006),
    'gravel': Material(0.38, 0.2, 0.0, 0.002, 0.05, 0.015),
    'grass': Material(0.48, 0.17, 0.0, 0.004, 0.02, 0.035),
    'plaster': Material(0.47, 0.22, 0.1, 0.004, 0.04, 0.006),
    'brick': Material(0.38, 0.25, 0.15, 0.006, 0.05, 0.008),
    'glass': Material(0.30, 0.8, 0.9, 0.55, 0.4, 0.02),
    'roof': Material(0.36, 0.3, 0.2, 0.01, 0.05, 0.01),
    'wood': Material(0.37, 0.3, 0.1, 0.01, 0.08, 0.006),
    'metal': Material(0.46, 0.3, 0.25, 0.03, 0.1, 0.004),
    'steel': Material(0.30, 0.5, 0.3, 0.03, 0.28, 0.004),
    'bark': Material(0.38, 0.3, 0.1, 0.01, 0.09, 0.015),
    'leaf': Material(0.42, 0.33, 0.1, 0.03, 0.07, 0.03),
    'paint': Material(0.38, 0.8, 0.5, 0.08, 0.45, 0.006),
    'panel': Material(0.54, 0.3, 0.3, 0.03, 0.10, 0.005),  # the box of a truck
    'tyre': Material(0.30, 0.6, 0.2, 0.10, 0.25, 0.005),
    'cloth': Material(0.52, 0.3, 0.05, 0.02, 0.03, 0.012),
    'skin': Material(0.45, 0.25, 0.1, 0.02, 0.04, 0.005),
    'retro': Material(0.90, 0.2, 0.0, 0.0, 0.01, 0.004),  # number plates, front of signs
    'sign': Material(0.42, 0.55, 0.1, 0.01, 0.1, 0.004),
}
MATERIAL = {name: row for row, name in enumerate(MATERIALS)}


def column(name: str) -> NDArray[np.float32]:
    """One property of all materials, in the order of the table."""
    assert name in {field.name for field in fields(Material)}
    return np.array([getattr(each, name) for each in MATERIALS.values()], np.float32)

# SPDX-License-Identifier: Apache-2.0
"""A few answered scans beside their truth, as one HTML page to look around in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.page import PageScan, writing_page
from lidar_kd.segmenter import Segmenter
from training.data.scan import Scan, Scans
from training.reports.report import choose_spread
from training.scores.scoring import Answer, Labels

# a label for every point, and how certain it is where that is known
RatedAnswer = Callable[[Scan], tuple[Labels, NDArray[np.float32] | None]]


def write_answer_page(
    path: Path,
    title: str,
    answer: RatedAnswer,
    scans: Scans,
    *,
    most: int,
    advance: Callable[[], None] = lambda: None,
) -> Path:
    """Truth, answers, errors and objects of at most so many scans, evenly spread over the set."""
    with writing_page(path, title, scans.table) as page:
        for index in choose_spread(len(scans), most):
            scan = scans[index]
            labels, probability = answer(scan)
            page.add(
                PageScan(
                    name=scan.name,
                    points=scan.points,
                    labels=labels,
                    truth=scan.labels,
                    probability=probability,
                )
            )
            advance()
    return path


def without_probability(answer: Answer) -> RatedAnswer:
    """For answers that do not say how certain they are."""
    return lambda scan: (answer(scan), None)


def rated_by(segmenter: Segmenter) -> RatedAnswer:
    def rate(scan: Scan) -> tuple[Labels, NDArray[np.float32]]:
        segmentation = segmenter.segment(scan.points)
        return segmentation.labels, segmentation.probability

    return rate

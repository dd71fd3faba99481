# SPDX-License-Identifier: Apache-2.0
"""Portions of a data set, made one after the other or side by side in several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed, ProcessPoolExecutor
import multiprocessing
import os
from typing import TypeVar

from training.live.tie import tie_worker

Portion = TypeVar('Portion')
Progress = Callable[[], None]
Maker = Callable[[Portion, Progress], int]  # calls its second argument after each scan; how many


def silently() -> None:
    """The progress of who has nobody to tell."""


def make_portions(
    portions: Sequence[Portion], make: Maker[Portion], workers: int, progress: Progress
) -> None:
    """`progress` is called once per scan; the first error ends the others."""
    if workers == 1 or len(portions) < 2:
        for portion in portions:
            make(portion, progress)
        return
    context = multiprocessing.get_context('spawn')  # Embree's threads do not survive a fork
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=tie_worker, initargs=(os.getpid(),)
    ) as pool:
        try:
            for made in as_completed([pool.submit(make, each, silently) for each in portions]):
                for _ in range(made.result()):
                    progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

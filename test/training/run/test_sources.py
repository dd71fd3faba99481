# SPDX-License-Identifier: Apache-2.0
"""From the `data` section to scans: what is simulated, and what the chosen ones know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import make_street

from lidar_kd.cli.console import Console
from training.data.fusion import FusedScans
from training.data.semantickitti import open_semantickitti
from training.data.settings import Data, Streets
from training.run.simulated import digest_streets, simulate
from training.run.sources import fuse_scans, spread_scans

QUIET = Console(quiet=True)


class Counting(Console):
    """What a progress bar is told: how much there is to do, and how often something was done."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.bars: list[list[int]] = []

    @contextmanager
    def progress(self, total: int, *_: Any, **__: Any) -> Iterator[Any]:
        bar = [total, 0]
        self.bars.append(bar)

        def advance() -> None:
            bar[1] += 1

        yield advance


def test_the_progress_of_a_simulation_counts_what_is_missing(tmp_path: Path) -> None:
    console = Counting()
    streets = Streets(train=1, validation=1, scans=2, sensor='vlp16')
    folder = simulate(streets, tmp_path, console)
    scan = next(folder.rglob('000001.label'))
    scan.unlink()
    simulate(streets, tmp_path, console)
    simulate(streets, tmp_path, console)
    assert console.bars == [[4, 4], [1, 1], [0, 0]]


def test_the_varied_world_is_made_where_a_configuration_asks_for_it(tmp_path: Path) -> None:
    console = Counting()
    varied = Streets(train=1, validation=1, scans=1, sensor='vlp16', world='varied')
    folder = simulate(varied, tmp_path, console)
    assert simulate(varied, tmp_path, console) == folder
    assert console.bars == [[2, 2], [0, 0]]
    assert 'Variety(' in (folder / 'sequences/00/streets.txt').read_text()


def test_streets_are_found_again_whatever_the_varied_world_is_told() -> None:
    assert digest_streets(Streets(mount='car', place='city')) == digest_streets(Streets())
    varied = {digest_streets(Streets(world='varied', mount=mount)) for mount in ('car', 'any')}
    assert len(varied | {digest_streets(Streets())}) == 3


def test_streets_that_others_have_made_are_found_again() -> None:
    # The digest reads the simulator's code, so any edit of training/streets makes everybody's
    # streets anew and parts run folders from their scans: pin a new one here if that is meant.
    assert digest_streets(Streets()) == '4fca8feb4f'


def test_sensors_of_the_varied_world_are_not_those_of_streets() -> None:
    assert Streets(world='varied', sensor='any').sensor == 'any'
    with pytest.raises(ValueError, match="sensor: unknown 'any'"):
        Streets(sensor='any')


def test_scans_chosen_to_be_scored_keep_the_past_that_the_others_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    street = make_street(tmp_path / 'street')
    first, *others = sorted((street / 'sequences' / '00' / 'velodyne').iterdir())
    for metres, path in enumerate(others, start=1):  # the same, each time 1 m nearer and 2 cm off
        points = np.fromfile(first, '<f4').reshape(-1, 4)
        points[:, :2] -= (metres, 0.02 * metres)
        points.tofile(path)
    scans = open_semantickitti(street, ['00'])
    data = Data(kind='semantickitti', root=street, past_scans=2)
    whole = fuse_scans(scans, scans, data, QUIET)
    chosen = spread_scans(scans, 2)  # the first and the last of four
    fused = fuse_scans(chosen, scans, data, QUIET)
    assert isinstance(fused, FusedScans)
    assert [frame.name for frame in fused.frames] == ['00/000000', '00/000003']
    assert fused[1].past is not None
    assert fused[1].past.sum() > 0
    assert np.array_equal(fused[1].points, whole[3].points)
    assert fused[0].past is None
    # of what lies between, the two scans that the last one looks back to
    assert fused.rows == (0, 3)
    assert set(fused.bank.sightings.frame.tolist()) == {0, 1, 2, 3}

# SPDX-License-Identifier: Apache-2.0
"""Batches and the loader: what they hold, and that workers and interruptions change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from lidar_kd.labels import IGNORE
from lidar_kd.models import build_model
from lidar_kd.sensor.intensity import MOST_INTENSITY
from lidar_kd.voxels import CartesianGrid, voxelize
from training.benchmarks import data
from training.data.augment import Augmentation, NO_AUGMENTATION
from training.data.batch import (
    Batch,
    make_batch,
    newly_labelled,
    TeacherInput,
    voxel_labels,
)
from training.data.folder import open_folder
from training.data.loader import epoch_order, Loader, TrainingScans, Turn
from training.data.scan import Scan

METRE = CartesianGrid(voxel_m=1)
BOUNDED = CartesianGrid(voxel_m=1, lower_m=(-40, -40, -40), upper_m=(40, 40, 40))


def make_scan(points: list[list[float]], labels: list[int], name: str = '') -> Scan:
    return Scan(
        points=np.array(points, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.uint8),
        instances=np.arange(1, len(labels) + 1, dtype=np.uint32),
        name=name,
    )


@pytest.fixture
def batch() -> Batch:
    """Two scans; the second point of the first cannot be held, and the last one is empty."""
    first = make_scan([[0.5, 0.5, 0.5, 1], [99, 0, 0, 2], [0.6, 0.5, 0.5, 3]], [1, 2, 3], 'a')
    second = make_scan([[0.5, 0.5, 0.5, 4]], [4], 'b')
    return make_batch([first, second, make_scan([], [], 'c')], BOUNDED)


def test_a_batch_holds_its_scans_one_after_the_other(batch: Batch) -> None:
    assert batch.labels.tolist() == [1, 3, 4]
    assert batch.labels.dtype == torch.uint8
    assert batch.points[:, 3].tolist() == [1, 3, 4]
    assert batch.owner.tolist() == [0, 0, 1]
    assert batch.instances is not None
    assert batch.instances.tolist() == [1, 3, 1]
    assert batch.starts == (0, 2, 3, 3)
    assert batch.names == ('a', 'b', 'c')
    assert len(batch) == 3
    assert batch.voxels.coords.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert batch.voxels.point_voxel.tolist() == [0, 0, 1]
    assert batch.voxels.left_out == {'out_of_range': 1}


def test_a_batch_without_object_numbers_has_none() -> None:
    bare = Scan(points=np.ones((1, 4), np.float32), labels=np.zeros(1, np.uint8))
    assert make_batch([bare], METRE).instances is None
    mixed = make_batch([bare, make_scan([[1, 1, 1, 1]], [0])], METRE).instances
    assert mixed is not None
    assert mixed.tolist() == [0, 1]


def test_a_voxel_has_the_label_of_most_of_its_points() -> None:
    # voxel 0: 2 against 1 and 1; voxel 1: a tie of 1 and 3; voxel 2: ignored points only
    x = [0.1, 0.2, 0.3, 0.4, 1.1, 1.2, 2.1, 2.2]
    labels = [1, 2, 3, 2, 3, 1, IGNORE, IGNORE]
    batch = make_batch([make_scan([[value, 0.5, 0.5, 1] for value in x], labels)], METRE)
    assert voxel_labels(batch, 4).tolist() == [2, 1, IGNORE]
    assert voxel_labels(batch, 4).dtype == torch.uint8


def check_equal(first: Batch, second: Batch) -> None:
    assert first.names == second.names
    assert first.starts == second.starts
    assert torch.equal(first.points, second.points)
    assert torch.equal(first.owner, second.owner)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.voxels.coords, second.voxels.coords)
    assert torch.equal(first.voxels.features, second.voxels.features)
    assert torch.equal(first.voxels.point_voxel, second.voxels.point_voxel)
    assert torch.equal(first.voxels.rows, second.voxels.rows)
    assert first.voxels.left_out == second.voxels.left_out


def test_voxels_that_only_the_past_labels_otherwise_are_told() -> None:
    # voxels at x = 0, 1, 2, 3. Present: class 4 in 0 and 1, nothing labelled in 2, nothing in 3.
    # Past: one more 4 in 0, two of 6 in 1 against one 4, a 6 in 2, a 7 in 3.
    x = [0.1, 1.1, 2.1, 0.2, 1.2, 1.3, 2.2, 3.2]
    scan = make_scan([[value, 0.5, 0.5, 1] for value in x], [4, 4, IGNORE, 4, 6, 6, 6, 7])
    fused = replace(scan, past=np.arange(8) >= 3)
    wanted = TeacherInput(METRE, fused=True)
    batch = make_batch([fused], METRE, teacher_inputs=[wanted])
    assert len(batch.labels) == 3
    told = newly_labelled(batch.views[wanted], batch, 19)
    assert told.tolist() == [IGNORE, 6, 6, 7]
    sent = pickle.loads(pickle.dumps(batch)).views[wanted]
    assert torch.equal(sent.labels, batch.views[wanted].labels)


def test_a_batch_can_be_sent_to_another_process_or_device(batch: Batch) -> None:
    check_equal(batch, pickle.loads(pickle.dumps(batch)))
    check_equal(batch, batch.to('cpu'))
    batch.voxels.level.submanifold((3, 3, 3))
    batch.voxels.level.coarser((2, 2, 2))
    check_equal(batch, pickle.loads(pickle.dumps(batch)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA card')
def test_a_batch_can_be_sent_to_a_card(batch: Batch) -> None:
    there = batch.to('cuda')
    assert there.points.is_cuda
    assert there.voxels.level.coords.is_cuda
    check_equal(batch, there.to('cpu'))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def scans(tmp_path: Path) -> TrainingScans:
    """Ten scans of 300 points, with every augmentation that needs no labels."""
    generator = rng()
    for number in range(10):
        points = generator.normal(size=(300, 4)).astype('<f4') * np.array([9, 9, 2, 1], '<f4')
        points.tofile(tmp_path / f'{number}.bin')
    settings = Augmentation(jitter_m=0.01, drop=0.2, mix3d=0.5, lasermix=0.5)
    return TrainingScans(open_folder(tmp_path), settings, seed=3)


def make_loader(scans: TrainingScans, workers: int = 0, **rest: Any) -> Loader:
    return Loader(scans, METRE, batch_size=3, workers=workers, **rest)


def check_all_equal(first: Iterable[Batch], second: Iterable[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        check_equal(one, other)


def test_an_epoch_holds_every_scan_once_and_epochs_differ(scans: TrainingScans) -> None:
    loader = make_loader(scans)
    assert len(loader) == 3  # of 3 scans each; the tenth has its turn in other epochs
    first, second = ([batch.names for batch in loader] for _ in range(2))
    names = [name for batch in first for name in batch]
    assert len(set(names)) == len(names) == 9
    assert first != second
    assert epoch_order(10, seed=3, epoch=0).tolist() == [
        int(name) for batch in first for name in batch
    ] + [int(name) for name in {str(n) for n in range(10)} - set(names)]


@pytest.mark.parametrize('workers', [1, 2])
def test_the_number_of_workers_changes_nothing(scans: TrainingScans, workers: int) -> None:
    alone, helped = make_loader(scans), make_loader(scans, workers)
    for _ in range(2):
        check_all_equal(alone, helped)
    assert alone.waited_s > 0
    assert helped.waited_s > 0


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('done', [0, 2, 3, 4])
def test_a_resumed_loader_goes_on_as_if_uninterrupted(
    scans: TrainingScans, workers: int, done: int
) -> None:
    def batches(loader: Loader, count: int) -> list[Batch]:
        found: list[Batch] = []
        while len(found) < count:
            for batch in loader:
                found.append(batch)
                if len(found) == count:
                    break
        return found

    expected = batches(make_loader(scans), 8)
    interrupted = make_loader(scans, workers)
    batches(interrupted, done)
    resumed = make_loader(scans, workers)
    resumed.load_state(interrupted.state())
    check_all_equal(batches(resumed, 8 - done), expected[done:])


def test_an_iteration_that_was_left_goes_on_where_it_was(scans: TrainingScans) -> None:
    loader, whole = make_loader(scans, workers=1), list(make_loader(scans))
    check_equal(next(iter(loader)), whole[0])
    check_all_equal(loader, whole[1:])
    assert loader.state()['epoch'] == 1


def test_workers_can_start_after_a_network_has_run(scans: TrainingScans, threads: int) -> None:
    torch.manual_seed(0)
    model = build_model('minkunet_quarter', classes=3).train()
    first, *rest = make_loader(scans)
    model(first.voxels).point_logits.sum().backward()
    helped = list(make_loader(scans, workers=1))
    check_all_equal([first, *rest], helped)
    assert model(helped[0].voxels).point_logits.shape == (len(helped[0].points), 3)


def test_another_set_or_batch_size_cannot_be_resumed(scans: TrainingScans) -> None:
    state = make_loader(scans).state()
    with pytest.raises(ConfigError, match='the interrupted run had batch_size 3, this one has 2'):
        Loader(scans, METRE, batch_size=2).load_state(state)


def test_loading_leaves_the_runs_own_random_numbers_alone(scans: TrainingScans) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make_loader(scans))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_ranks_share_the_batch_of_one_process(scans: TrainingScans) -> None:
    # one process with batches of 6, or two with 3 each
    whole = [batch.names for batch in Loader(scans, METRE, batch_size=6)]
    ranks = [[b.names for b in make_loader(scans, rank=r, world=2)] for r in range(2)]
    assert [first + second for first, second in zip(*ranks)] == whole


def test_a_set_smaller_than_a_batch_is_repeated(scans: TrainingScans) -> None:
    (batch,) = Loader(scans, METRE, batch_size=12)
    assert sorted(set(batch.names)) == [str(number) for number in range(10)]
    assert len(batch) == 12


def test_a_scans_augmentation_depends_on_seed_epoch_and_place_only(scans: TrainingScans) -> None:
    first = scans[Turn(0, 4)]
    scans[Turn(5, 2)]
    assert np.array_equal(first.points, scans[Turn(0, 4)].points)
    assert not np.array_equal(first.points[:50], scans[Turn(1, 4)].points[:50])


def test_intensities_are_scaled_as_the_bundle_will_say(scans: TrainingScans) -> None:
    plain = TrainingScans(scans.scans, NO_AUGMENTATION, seed=0)
    scaled = TrainingScans(scans.scans, NO_AUGMENTATION, seed=0, intensity_scale=0.5)
    before, after = plain[Turn(0, 0)].points, scaled[Turn(0, 0)].points
    assert np.array_equal(after[:, 3], before[:, 3] / 2)
    assert np.array_equal(after[:, :3], before[:, :3])


def test_wild_intensities_are_limited_as_the_robot_limits_them(scans: TrainingScans) -> None:
    wild = TrainingScans(scans.scans, NO_AUGMENTATION, seed=0, intensity_scale=1e6)
    assert wild[Turn(0, 0)].points[:, 3].max() == MOST_INTENSITY


def test_training_and_the_node_see_the_same_voxels(scans: TrainingScans) -> None:
    scan = scans.scans[0]
    live = voxelize(torch.from_numpy(scan.points), METRE)
    batch = make_batch([scan, scan], METRE)
    first = batch.voxels.coords[:, 0] == 0
    assert torch.equal(batch.voxels.coords[first], live.coords)
    assert torch.equal(batch.voxels.features[first], live.features)


def test_the_benchmark_of_the_data_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, 'even_points', lambda: 2000)
    metrics = data.run_data(Console(quiet=True), scans=1, repeats=1)
    assert metrics['scan_ms'] > 0
    assert 0 <= metrics['wait_share'] < 1

# SPDX-License-Identifier: Apache-2.0
"""The Segmenter answers every point, in order, and says so when it cannot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from lidar_kd.bundle import Bundle, BundleSpec, IntensitySpec, ModelSpec, save_bundle
from lidar_kd.errors import BundleError, ConfigError, DataError
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.models import build_model, Output
from lidar_kd.models.output import SegmentationNetwork
from lidar_kd.segmenter import choose_dtype, Segmentation, Segmenter
from lidar_kd.sparse import Level, select_engine
from lidar_kd.sparse.engines.native.library import native_missing
from lidar_kd.voxels import CartesianGrid, voxelize, Voxels

CLASSES = SEMANTICKITTI.num_classes
ENGINES = ['torch'] if native_missing() else ['torch', 'native']


def make_bundle(name: str = 'minkunet', *, scale: float = 1.0) -> Bundle:
    torch.manual_seed(0)
    settings: dict[str, Any] = {'width': 0.125}
    spec = BundleSpec(
        model=ModelSpec(name=name, settings=settings),
        grid=CartesianGrid(voxel_m=0.3),
        intensity=IntensitySpec(scale=scale),
        labels=SEMANTICKITTI,
    )
    model = build_model(name, classes=CLASSES, **settings)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.momentum = 1.0
    with torch.no_grad():  # statistics as of a network that has seen data
        model.train()(voxelize(torch.from_numpy(make_scan()), spec.grid))
    return Bundle(model=model.eval(), spec=spec)


def make_scan(count: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = rng.uniform(-8, 8, (count, 4)).astype(np.float32)
    points[:, 2] *= 0.2
    points[:, 3] = rng.random(count)
    return points


@pytest.mark.parametrize('name', ['minkunet', 'spvcnn'])
def test_labels_are_those_of_the_network_in_training_code(name: str) -> None:
    bundle, scan = make_bundle(name), make_scan()
    result = Segmenter(bundle, precision='float32').segment(scan)
    with torch.no_grad():
        voxels = voxelize(torch.from_numpy(scan), bundle.spec.grid)
        posterior = bundle.model(voxels).point_logits.softmax(1)
    probability, labels = posterior.max(1)
    assert (result.labels == labels.numpy()).mean() > 0.999  # folding may turn a tie
    assert np.allclose(result.probability, probability.numpy(), atol=1e-4)
    entropy = -(posterior * posterior.log()).sum(1) / math.log(CLASSES)
    assert np.allclose(result.entropy, entropy.numpy(), atol=1e-4)


def test_points_it_cannot_see_get_255_in_their_place() -> None:
    scan = make_scan(500)
    scan[3, 0], scan[7, 2], scan[11, :3] = np.nan, np.inf, 0
    scan[13, 1] = 1e9
    result = Segmenter(make_bundle()).segment(scan)
    blind = np.flatnonzero(result.labels == IGNORE)
    assert blind.tolist() == [3, 7, 11, 13]
    assert np.isnan(result.entropy[blind]).all()
    assert (result.probability[blind] == 0).all()
    assert result.unseen == {'not_finite': 2, 'no_return': 1, 'out_of_range': 1}


def test_the_other_points_do_not_change_when_some_cannot_be_seen() -> None:
    scan, segmenter = make_scan(500), Segmenter(make_bundle(), precision='float32')
    broken = np.concatenate([scan, np.full((50, 4), np.nan, np.float32)])
    assert np.array_equal(segmenter.segment(broken).labels[:500], segmenter.segment(scan).labels)


class Overflowing:
    """Class 3 everywhere but in the first point's voxel, whose logits are given."""

    def __init__(self, logits: float) -> None:
        self.logits = logits

    def build_maps(self, level: Level) -> None:
        pass

    def __call__(self, voxels: Voxels) -> Output:
        logits = torch.zeros(len(voxels.level), CLASSES)
        logits[:, 3] = 5
        logits[voxels.point_voxel[0], 7:] = self.logits
        return Output(logits, voxels.features, voxels.point_voxel)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('logits', [math.nan, math.inf, -math.inf])
def test_logits_that_overflow_are_no_answer_and_counted(engine: str, logits: float) -> None:
    segmenter = Segmenter(make_bundle(), engine=engine)
    segmenter._model = cast(SegmentationNetwork, Overflowing(logits))
    # the first two share a voxel of 0.3 m, the third has its own, the fourth has none
    scan = np.array([[1, 1, 1, 0], [1, 1.1, 1, 0], [5, 5, 1, 0], [np.nan, 1, 1, 0]], np.float32)
    result = segmenter.segment(scan)
    assert result.labels.tolist() == [IGNORE, IGNORE, 3, IGNORE]
    # of the third, e^5 / (e^5 + 18)
    assert np.allclose(result.probability, [0, 0, 0.891829, 0])
    assert np.isnan(result.entropy).tolist() == [True, True, False, True]
    assert result.unseen == {'not_finite': 1, 'overflowed': 2}
    assert np.isnan(segmenter.probabilities(scan)).any(1).tolist() == [True, True, False, True]


def test_a_broken_return_takes_no_answers_with_it_in_float16() -> None:
    segmenter, scan = Segmenter(make_bundle(), precision='float32', engine='torch'), make_scan()
    segmenter.dtype = torch.float16  # as on CUDA
    scan[0, 3] = 65535  # infinite in float16
    result = segmenter.segment(scan)
    assert np.isfinite(result.entropy).all()
    assert result.unseen == {}


@pytest.mark.parametrize(
    ('scale', 'broken', 'limited'), [(1, 65535, 256), (0.5, -3e38, -512), (2, 128.5, 128)]
)
def test_an_intensity_beyond_every_convention_counts_as_256_once_scaled(
    scale: float, broken: float, limited: float
) -> None:
    segmenter, scan = Segmenter(make_bundle(scale=scale), precision='float32'), make_scan(500)
    scan[7, 3] = limited
    wanted = segmenter.segment(scan)
    scan[7, 3] = broken
    result = segmenter.segment(scan)
    assert np.array_equal(result.probability, wanted.probability)


@pytest.mark.parametrize('broken', [math.nan, math.inf, -math.inf])
def test_a_point_without_an_intensity_has_0_and_is_labelled_as_in_the_node(broken: float) -> None:
    segmenter, scan = Segmenter(make_bundle(), precision='float32'), make_scan(500)
    scan[7, 3] = 0
    wanted = segmenter.segment(scan)
    scan[7, 3] = broken
    result = segmenter.segment(scan)
    assert result.unseen == {}
    assert np.array_equal(result.probability, wanted.probability)


def test_intensities_from_0_to_255_reach_the_network_as_they_are() -> None:
    segmenter, scan = Segmenter(make_bundle()), make_scan(500)
    scan[:, 3] *= 255
    assert np.array_equal(segmenter._voxelize(segmenter._prepare(scan)).points.numpy(), scan)


@pytest.mark.parametrize('engine', ENGINES)
def test_the_weights_are_packed_for_the_first_scan_only(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    segmenter, scan = Segmenter(make_bundle(), engine=engine), make_scan(500)
    segmenter.segment(scan)
    monkeypatch.setattr(segmenter.engine, 'pack', None)
    segmenter.segment(scan)


@pytest.mark.parametrize('count', [0, 5])
def test_a_scan_without_a_visible_point_is_answered(count: int) -> None:
    result = Segmenter(make_bundle()).segment(np.full((count, 4), np.nan, np.float32))
    assert result.labels.tolist() == [IGNORE] * count
    assert np.isnan(result.entropy).all()


def test_a_single_point_is_answered() -> None:
    assert Segmenter(make_bundle()).segment(make_scan(1)).labels[0] < CLASSES


def test_the_intensity_is_scaled_as_the_bundle_says() -> None:
    scan = make_scan()
    raw = scan * np.array([1, 1, 1, 255], np.float32)
    plain = Segmenter(make_bundle(), precision='float32').segment(scan)
    scaled = Segmenter(make_bundle(scale=1 / 255), precision='float32').segment(raw)
    assert (plain.labels == scaled.labels).mean() > 0.999


def test_the_callers_points_and_bundle_stay_as_they_are() -> None:
    scan, bundle = make_scan(), make_bundle(scale=0.5)
    before, weights = scan.copy(), {k: v.clone() for k, v in bundle.model.state_dict().items()}
    Segmenter(bundle).segment(scan)
    assert np.array_equal(scan, before)
    assert all(torch.equal(v, weights[k]) for k, v in bundle.model.state_dict().items())


def test_two_runs_give_the_same_bits() -> None:
    segmenter, scan = Segmenter(make_bundle()), make_scan()
    one, two = segmenter.segment(scan), segmenter.segment(scan)
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.entropy, two.entropy)


def test_every_stage_is_timed() -> None:
    timing = Segmenter(make_bundle()).segment(make_scan()).timing
    assert list(timing) == ['voxelize', 'maps', 'network', 'answer']
    assert all(ms > 0 for ms in timing.values())


def test_warming_up_runs_the_whole_way(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, answers = Segmenter(make_bundle()), list[Segmentation]()
    segment = segmenter.segment
    monkeypatch.setattr(segmenter, 'segment', lambda points: answers.append(segment(points)))
    segmenter.warm_up(points=2000)
    (answer,) = answers
    assert list(answer.timing) == ['voxelize', 'maps', 'network', 'answer']
    assert (answer.labels != IGNORE).mean() > 0.5


def test_extra_columns_are_left_alone() -> None:
    scan = make_scan()
    wide = np.column_stack([scan, np.full(len(scan), np.nan, np.float32)])
    segmenter = Segmenter(make_bundle(), precision='float32')
    assert np.array_equal(segmenter.segment(wide).labels, segmenter.segment(scan).labels)


def test_too_few_columns_are_refused() -> None:
    with pytest.raises(DataError, match='expected'):
        Segmenter(make_bundle()).segment(np.zeros((5, 3), np.float32))


def test_bfloat16_decides_nearly_as_float32_does() -> None:
    if not select_engine('cpu').computes(torch.bfloat16):
        pytest.skip('this CPU has no AMX')
    exact, quick = (
        Segmenter(make_bundle(), precision=precision).segment(make_scan())
        for precision in ('float32', 'bfloat16')
    )
    assert (exact.labels == quick.labels).mean() > 0.9  # random weights: many near ties
    assert np.abs(exact.entropy - quick.entropy).mean() < 0.01


@pytest.mark.parametrize('device', ['tpu', 'cuda:99', 'gpu0'])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match='device'):
        Segmenter(make_bundle(), device=device)


def test_plain_torch_computes_in_halves_on_a_card_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)  # a card that is not used
    cpu, card = torch.device('cpu'), torch.device('cuda')
    assert choose_dtype('auto', cpu, select_engine(cpu, 'torch')) == torch.float32
    assert choose_dtype('float16', cpu, select_engine(cpu, 'torch')) == torch.float32
    assert choose_dtype('auto', card, select_engine(card, 'torch')) == torch.float16


def test_a_path_to_a_bundle_is_enough(tmp_path: Path) -> None:
    bundle = make_bundle()
    save_bundle(tmp_path / 'a.safetensors', bundle.model, bundle.spec)
    scan = make_scan()
    loaded = Segmenter(tmp_path / 'a.safetensors', precision='float32').segment(scan)
    assert np.array_equal(
        loaded.labels, Segmenter(bundle, precision='float32').segment(scan).labels
    )
    with pytest.raises(BundleError):
        Segmenter(tmp_path / 'b.safetensors')


def test_native_and_torch_answers_are_the_same() -> None:
    torch.manual_seed(0)
    logits = 5 * torch.randn(1003, CLASSES)
    logits[5] = 0  # all alike: class 0, probability 1/C, entropy 1
    logits[6, 3] = 200  # certain: probability 1, entropy 0
    one, other = (select_engine('cpu', name).answers(logits) for name in ('auto', 'torch'))
    assert torch.equal(one[0], other[0])
    assert torch.allclose(one[1], other[1], atol=1e-5)
    assert torch.allclose(one[2], other[2], atol=1e-5)
    assert one[0][5] == 0
    assert math.isclose(float(one[2][5]), 1.0, abs_tol=1e-5)
    assert one[0][6] == 3
    assert math.isclose(float(one[2][6]), 0.0, abs_tol=1e-5)

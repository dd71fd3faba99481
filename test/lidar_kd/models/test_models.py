# SPDX-License-Identifier: Apache-2.0
"""The networks: sizes, gradients, and that a point's answer depends on its own scan alone."""

import math
from typing import Any

import pytest
from seen_network import build_seen, flat_gradient, GRID, scan
import torch
from torch import nn

from lidar_kd.errors import ConfigError
from lidar_kd.models import build_model, MODELS, PRESETS
from lidar_kd.models.cylinder3d import Cylinder3D
from lidar_kd.sparse import Engine, fold_norms, select_engine
from lidar_kd.sparse.engines.native.library import native_missing
from lidar_kd.voxels import voxelize, Voxels

# small, but with every kind of layer
TINY: dict[str, dict[str, Any]] = {
    'minkunet': {'width': 0.25},
    'spvcnn': {'width': 0.25},
    'spunet': {
        'base_channels': 8,
        'channels': [8, 12, 16, 16, 12, 8],
        'layers': [1, 2, 1, 2, 1, 1],
    },
    'ptv3': {
        'encoder_depths': [1, 2, 1],
        'encoder_channels': [8, 16, 16],
        'encoder_heads': [1, 2, 2],
        'decoder_depths': [1, 1],
        'decoder_channels': [16, 16],
        'decoder_heads': [2, 1],
        'patch': 32,
    },
    'litept': {
        'encoder_depths': [1, 1, 2],
        'encoder_channels': [4, 12, 12],
        'encoder_heads': [1, 1, 2],
        'decoder_depths': [0, 1],
        'decoder_channels': [12, 12],
        'decoder_heads': [1, 2],
        'attention_from': 1,
        'patch': 32,
    },
    'cylinder3d': {
        'width': 4,
        'voxel_channels': 4,
        'point_channels': 8,
        'point_hidden': [8, 16],
    },
}
# how often the first decoder level has halved x, y and z: one time less than the coarsest level
EARLY_BITS = {
    'MinkUNet': (3, 3, 3),
    'SPVCNN': (3, 3, 3),
    'SpUNet': (2, 2, 2),
    'PTv3': (1, 1, 1),
    'LitePT': (1, 1, 1),
    'Cylinder3D': (3, 3, 2),
}
ENGINES = ['torch', 'native']


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return tiny(request.param)


def tiny(name: str) -> nn.Module:
    return build_seen(name, **TINY[name])


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ('name', 'width', 'parameters'),
    [
        ('spvcnn', 0.5, 5_449_267),
        ('spvcnn', 0.64, 8_793_617),
        ('spvcnn', 1.0, 21_778_003),
        # SPVCNN less its point branch: at full width the layers 32 -> 256 -> 128 -> 96 with
        # biases and norms, 32 * 256 + 256 * 128 + 128 * 96 + 3 * (256 + 128 + 96) = 54,688
        ('minkunet', 0.5, 5_435_235),
        ('minkunet', 0.64, 8_771_298),
        ('minkunet', 1.0, 21_723_315),
    ],
)
def test_students_have_the_published_number_of_parameters(
    name: str, width: float, parameters: int
) -> None:
    assert count(build_model(name, classes=19, width=width)) == parameters


def test_spunet_has_39_15_million_parameters() -> None:
    # without the norms, and with k^3 cells per kernel:
    #   stem 125 * 4 * 32 = 16,000; head 96 * 19 + 19 = 1,843
    #   down 8 * (32*32 + 32*64 + 64*128 + 128*256) = 352,256
    #   blocks down 2 * 27 * (2*32^2 + 3*64^2 + 4*128^2 + 6*256^2) = 25,546,752
    #   up 8 * (256*256 + 256*128 + 128*96 + 96*96) = 958,464
    #   first blocks up: 27 * ((c + skip) * c + c * c) and the 1^3 shortcut (c + skip) * c, with
    #     (c, skip) = (256, 128), (128, 64), (96, 32), (96, 32):
    #     28 * (98,304 + 24,576 + 12,288 + 12,288) + 27 * (65,536 + 16,384 + 9,216 + 9,216)
    #     = 4,128,768 + 2,709,504 = 6,838,272
    #   second blocks up 2 * 27 * (65,536 + 16,384 + 9,216 + 9,216) = 5,419,008
    # norms, 2 per channel: 32 stem; (2n + 1) per stage down, 32*5 + 64*7 + 128*9 + 256*13 = 5,088;
    #   1 + 3 + 2 per stage up, 6 * (256 + 128 + 96 + 96) = 3,456; twice 8,576 = 17,152
    total = 16_000 + 1_843 + 352_256 + 25_546_752 + 958_464 + 6_838_272 + 5_419_008 + 17_152
    assert total == 39_149_747
    assert count(build_model('spunet', classes=19)) == total


@pytest.mark.parametrize('name', sorted(PRESETS))
def test_every_preset_builds(name: str) -> None:
    with torch.device('meta'):
        assert count(build_model(name, classes=16)) > 0


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        ({'channels': [8, 8], 'layers': [1]}, '2 channels and 1 layers'),
        ({'channels': [8, 8, 8], 'layers': [1, 1, 1]}, '3 channels and 3 layers'),
        ({'channels': [8, 8], 'layers': [1, 0]}, '1 or more'),
        ({'depth': 3}, 'depth'),
    ],
)
def test_settings_that_make_no_spunet_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_model('spunet', classes=5, **settings)


@pytest.mark.parametrize(
    ('name', 'settings', 'sentence'),
    [
        ('minkunet', {'width': 0.03}, 'width 0.03 leaves layers without channels: use 0.03125'),
        ('minkunet', {'width': -1}, 'width -1 leaves layers without channels'),
        ('spvcnn', {'width': math.inf}, 'its settings make no network: cannot convert float inf'),
        ('spvcnn', {'width': 0.25, 'dropout': 2}, 'its settings make no network: dropout prob'),
        ('ptv3_quarter', {'mlp_ratio': -1}, 'its settings make no network: Trying to create'),
        ('ptv3_quarter', {'encoder_depths': [10**9] * 5}, 'depths must be 100 or fewer per level'),
        ('spunet', {'layers': [10**9] * 8}, 'layers must be 100 or fewer per stage'),
    ],
)
def test_settings_that_make_no_network_are_refused(
    name: str, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_model(name, classes=5, **settings)


# --- forward and backward ---


def test_a_network_answers_for_every_point_and_voxel(model: nn.Module) -> None:
    voxels = voxelize(scan(), GRID)
    output = model(voxels)
    n, v = len(voxels.points), len(voxels.level)
    assert output.point_logits.shape == (n, 5)
    assert output.voxel_logits.shape == (v, 5)
    assert len(output.point_features) == n
    assert len(output.voxel_features) == v
    assert torch.equal(output.point_voxel, voxels.point_voxel)


def test_each_voxel_knows_its_row_of_the_early_features(model: nn.Module) -> None:
    points = torch.cat([scan(), scan(300, seed=6)])
    voxels = voxelize(points, GRID, batch=torch.tensor([0] * 600 + [1] * 300))
    output = model(voxels)
    step = torch.tensor([0, *EARLY_BITS[type(model).__name__]])
    cells = output.early.tensor.level.coords
    by_hand = [int((cells == cell).all(1).nonzero()) for cell in voxels.coords >> step]
    assert output.early_cell.tolist() == by_hand
    assert output.early_features.shape == (len(cells), model.early_width)


def test_a_network_says_how_wide_its_features_are(model: nn.Module) -> None:
    output = model(voxelize(scan(), GRID))
    features = output.point_features, output.voxel_features, output.early_features
    widths = model.point_width, model.voxel_width, model.early_width
    assert tuple(rows.shape[1] for rows in features) == widths


def test_early_features_take_part_in_the_gradient(model: nn.Module) -> None:
    output = model.train()(voxelize(scan(), GRID))
    output.early_features.index_select(0, output.early_cell).square().sum().backward()
    assert flat_gradient(model).any()


def test_every_parameter_gets_a_gradient(model: nn.Module) -> None:
    model.train()
    output = model(voxelize(scan(), GRID))
    (output.point_logits.square().mean() + output.voxel_logits.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # a bias before a norm has none but rounding
        assert parameter.grad.any() or name.endswith('conv.bias'), name


def test_two_scans_in_one_batch_get_what_each_gets_alone(model: nn.Module) -> None:
    first, second = scan(500, seed=1), scan(400, seed=2)
    batch = torch.tensor([0] * 500 + [1] * 400)
    with torch.inference_mode():
        together = model(voxelize(torch.cat([first, second]), GRID, batch=batch)).point_logits
        alone = [model(voxelize(points, GRID)).point_logits for points in (first, second)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_the_order_of_the_points_does_not_change_what_a_point_gets(model: nn.Module) -> None:
    points, order = scan(), torch.randperm(600)
    with torch.inference_mode():
        logits = model(voxelize(points, GRID)).point_logits
        shuffled = model(voxelize(points[order], GRID)).point_logits
    torch.testing.assert_close(shuffled, logits[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('model', sorted(MODELS.keys() - {'cylinder3d'}), indirect=True)
def test_a_shift_by_whole_coarsest_cells_changes_nothing_but_the_place(model: nn.Module) -> None:
    points = scan()
    points[:, :3] = (points[:, :3] * 64).round() / 64  # exact in float32 at both places
    moved = points + torch.tensor([-64.0, 32.0, 8.0, 0.0])  # multiples of 16 voxels of 0.5 m
    voxels, elsewhere = voxelize(points, GRID), voxelize(moved, GRID)
    elsewhere.features[:, :3] = voxels.features[:, :3]
    with torch.inference_mode():
        expected = model(voxels).point_logits
        torch.testing.assert_close(model(elsewhere).point_logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('points', [1, 3])
def test_a_single_voxel_is_enough(model: nn.Module, points: int) -> None:
    one = torch.tensor([[-3.1, 2.2, 0.3, 0.5]]).repeat(points, 1)
    voxels = voxelize(one, GRID)
    assert len(voxels.level) == 1
    with torch.inference_mode():
        logits = model(voxels).point_logits
    assert logits.shape == (points, 5)
    assert logits.isfinite().all()


def test_folded_norms_change_nothing(model: nn.Module) -> None:
    voxels = voxelize(scan(), GRID)
    with torch.inference_mode():
        expected = model(voxels)
        folded = fold_norms(model)(voxels)
    torch.testing.assert_close(folded.point_logits, expected.point_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded.voxel_logits, expected.voxel_logits, rtol=1e-4, atol=1e-4)


def test_inference_gives_what_training_code_gives(model: nn.Module) -> None:
    voxels = voxelize(scan(), GRID)
    trained = model(voxels).point_logits.detach()
    with torch.inference_mode():
        torch.testing.assert_close(
            fold_norms(model)(voxels).point_logits, trained, rtol=1e-4, atol=1e-4
        )


@pytest.mark.skipif(bool(native_missing()), reason=native_missing())
def test_native_and_torch_engine_agree(model: nn.Module) -> None:
    outputs, gradients = [], []
    for engine in ENGINES:
        model.zero_grad()
        output = model(voxelize(scan(), GRID, engine=engine)).point_logits
        output.square().mean().backward()
        outputs.append(output.detach())
        gradients.append(flat_gradient(model))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    # where a maximum over a cell's points is a tie within rounding, the gradient goes to another
    # point: against float64 either engine is off by up to 7e-3 then, and by 1e-5 without a tie
    off = 2e-2 if isinstance(model, Cylinder3D) else 1e-4
    assert (gradients[0] - gradients[1]).norm() < off * gradients[0].norm()


@pytest.mark.skipif(
    not select_engine('cpu').computes(torch.bfloat16), reason='no bfloat16 on this CPU'
)
def test_bfloat16_decides_nearly_as_float32_does(model: nn.Module) -> None:
    fold_norms(model)
    voxels = voxelize(scan(2000), GRID)
    half = Voxels(**{**vars(voxels), 'features': voxels.features.bfloat16()})
    with torch.inference_mode():
        expected, logits = model(voxels).point_logits, model(half).point_logits
    assert logits.dtype == torch.bfloat16
    # 8 bits of precision through 40 layers; the logits of random weights lie close together
    # Cylinder3D's norms do not fold, so each of its layers rounds three times
    off, agree = (0.15, 0.9) if isinstance(model, Cylinder3D) else (0.05, 0.95)
    assert (logits.float() - expected).abs().mean() < off * expected.abs().mean()
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > agree


def test_build_maps_builds_every_map(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = voxelize(scan(), GRID, engine='torch')
    model.build_maps(voxels.level)  # type: ignore[operator]

    def refuse(*_: object) -> None:
        raise AssertionError('a kernel map was built after build_maps')

    monkeypatch.setattr(Engine, 'submanifold', refuse)
    monkeypatch.setattr(Engine, 'strided', refuse)
    model(voxels)

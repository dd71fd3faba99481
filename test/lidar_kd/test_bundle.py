# SPDX-License-Identifier: Apache-2.0
"""A bundle comes back as it was written; every broken one gets one sentence."""

from collections.abc import Callable
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
import torch
from torch import nn

from lidar_kd.bundle import (
    Bundle,
    BundleSpec,
    find_shipped_bundle,
    IntensitySpec,
    list_shipped_bundles,
    load_bundle,
    ModelSpec,
    read_spec,
    save_bundle,
)
from lidar_kd.errors import BundleError
from lidar_kd.labels import NUSCENES, SEMANTICKITTI
from lidar_kd.models import build_model, MODELS
from lidar_kd.segmenter import Segmenter
from lidar_kd.voxels import CartesianGrid, CylinderGrid

SPEC = BundleSpec(
    model=ModelSpec(name='minkunet', settings={'width': 0.125}),
    grid=CartesianGrid(voxel_m=0.1),
    intensity=IntensitySpec(scale=0.5, source='toy'),
    labels=SEMANTICKITTI,
    provenance={'data': 'none', 'score': '0.0'},
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model('minkunet', width=0.125, classes=19)


@pytest.fixture
def written(tmp_path: Path, model: nn.Module) -> Path:
    save_bundle(tmp_path / 'a.safetensors', model, SPEC)
    return tmp_path / 'a.safetensors'


def rewrite(
    path: Path,
    *,
    tensors: Callable[[dict[str, torch.Tensor]], object] = lambda tensors: None,
    document: Callable[[dict[str, Any]], object] = lambda document: None,
) -> None:
    """Change the file's tensors or its description in place."""
    stored = load_file(path)
    with safe_open(path, framework='pt') as file:
        described = json.loads(file.metadata()['lidar_kd'])
    tensors(stored)
    document(described)
    save_file(stored, path, {'lidar_kd': json.dumps(described)})


def refuse(path: Path, sentence: str) -> None:
    """Loading fails with one sentence that names the file."""
    with pytest.raises(BundleError, match=sentence) as caught:
        load_bundle(path)
    assert str(caught.value).startswith(f'{path}: ')
    assert '\n' not in str(caught.value)


def test_weights_and_description_come_back_as_written(written: Path, model: nn.Module) -> None:
    bundle = load_bundle(written)
    assert bundle.spec == SPEC
    assert bundle.path == written
    assert bundle.name == 'a'
    state = model.state_dict()
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_the_network_is_loaded_for_inference_in_float32(written: Path) -> None:
    model = load_bundle(written).model
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_hash_is_the_start_of_the_files_sha256(written: Path) -> None:
    assert load_bundle(written).sha256 == hashlib.sha256(written.read_bytes()).hexdigest()[:12]


def test_the_description_is_read_without_the_weights(written: Path) -> None:
    assert read_spec(written) == SPEC


def test_half_precision_storage_halves_the_file_and_rounds(
    tmp_path: Path, written: Path, model: nn.Module
) -> None:
    half = tmp_path / 'half.safetensors'
    save_bundle(half, model, SPEC, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * written.stat().st_size
    loaded = load_bundle(half).model.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-3, atol=1e-6)


def test_a_cylinder_grid_and_another_table_survive(tmp_path: Path) -> None:
    spec = BundleSpec(
        model=ModelSpec(name='minkunet', settings={'width': 0.125}),
        grid=CylinderGrid(shape=(48, 36, 8)),
        labels=NUSCENES,
    )
    model = build_model('minkunet', width=0.125, classes=16)
    save_bundle(tmp_path / 'a.safetensors', model, spec)
    assert load_bundle(tmp_path / 'a.safetensors').spec == spec


def test_a_bundle_that_was_never_written_is_named_after_its_model(model: nn.Module) -> None:
    assert Bundle(model=model, spec=SPEC).name == 'minkunet'


def test_nothing_but_the_bundle_is_left_in_the_folder(written: Path) -> None:
    assert [path.name for path in written.parent.iterdir()] == ['a.safetensors']


def test_a_failed_write_leaves_the_old_bundle(written: Path, model: nn.Module) -> None:
    before = written.read_bytes()
    wrong = SPEC.model_copy(update={'labels': NUSCENES})
    with pytest.raises(BundleError, match='do not fit'):
        save_bundle(written, model, wrong)
    assert written.read_bytes() == before
    assert len(list(written.parent.iterdir())) == 1


def test_a_missing_folder_is_named_when_writing(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(BundleError, match='cannot be written'):
        save_bundle(tmp_path / 'none' / 'a.safetensors', model, SPEC)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path / 'a.safetensors', 'no such bundle')
    refuse(tmp_path, 'a folder, not a bundle')


@pytest.mark.parametrize('keep', [0, 4, 100, -1])
def test_a_cut_off_file_is_refused(written: Path, keep: int) -> None:
    written.write_bytes(written.read_bytes()[:keep])
    refuse(written, 'not a complete safetensors file')


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({'weight': torch.zeros(3)}, tmp_path / 'a.pth')
    refuse(tmp_path / 'a.pth', 'not a complete safetensors file')


@pytest.mark.parametrize('metadata', [None, {'format': 'pt'}])
def test_safetensors_of_others_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({'weight': torch.zeros(3)}, tmp_path / 'a.safetensors', metadata)
    refuse(tmp_path / 'a.safetensors', 'not written by lidar_kd')


def test_a_newer_format_is_refused_before_its_keys_are_read(written: Path) -> None:
    rewrite(written, document=lambda d: d.update(format_version=3, brand_new='key'))
    refuse(written, r'newer lidar_kd \(format 3; this one reads up to 2\); update lidar_kd')


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ({'shadow': 1}, 'shadow: Extra inputs'),
        ({'model': {'settings': {}}}, 'model.name: Field required'),
        ({'grid': {'kind': 'sphere'}}, 'grid'),
        ({'grid': {'kind': 'cartesian', 'voxel_m': -1}}, 'grid.cartesian.voxel_m'),
        ({'grid': {'kind': 'cartesian', 'voxel_m': math.inf}}, 'grid.cartesian.voxel_m'),
        ({'grid': {'kind': 'cartesian', 'origin_m': [math.nan] * 3}}, 'grid.cartesian.origin_m.0'),
        ({'intensity': {'scale': 'loud'}}, 'intensity.scale'),
        ({'intensity': {'scale': 0}}, 'intensity.scale'),
        ({'format_version': 0}, 'format_version'),
        ({'format_version': '1'}, 'format_version'),
        ({'labels': {'name': 'toy'}}, 'labels.names'),
        ({'provenance': {'score': 3}}, 'provenance.score'),
    ],
)
def test_a_damaged_description_names_the_key(
    written: Path, change: dict[str, Any], sentence: str
) -> None:
    rewrite(written, document=lambda document: document.update(change))
    refuse(written, f'damaged bundle description .*{sentence}')


def test_a_description_that_is_no_json_is_refused(tmp_path: Path) -> None:
    save_file({'a': torch.zeros(1)}, tmp_path / 'a.safetensors', {'lidar_kd': '{"format'})
    refuse(tmp_path / 'a.safetensors', 'damaged bundle description')


def test_a_description_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    nested = '[' * 100_000
    save_file({'a': torch.zeros(1)}, tmp_path / 'a.safetensors', {'lidar_kd': nested})
    refuse(tmp_path / 'a.safetensors', 'damaged bundle description .*recursion')


@pytest.mark.parametrize(
    ('name', 'settings', 'sentence'),
    [
        ('minkunet', {'width': -1}, 'width -1 leaves layers without channels'),
        ('minkunet', {'width': 0}, 'width 0 leaves layers without channels'),
        ('minkunet', {'width': math.inf}, 'minkunet: its settings make no network'),
        ('minkunet', {'width': 1000}, 'of another shape'),  # 21.7 M * 1000^2 * 4 bytes: 87 TB
        ('spvcnn', {'width': 0.125, 'dropout': 2}, 'spvcnn: its settings make no network'),
        ('ptv3_quarter', {'mlp_ratio': -1}, 'ptv3_quarter: its settings make no network'),
        ('spunet', {'layers': [10**9] * 8}, 'layers must be 100 or fewer'),
    ],
)
def test_settings_that_make_no_network_or_one_that_fits_no_memory_are_refused(
    written: Path, name: str, settings: dict[str, Any], sentence: str
) -> None:
    rewrite(written, document=lambda d: d['model'].update(name=name, settings=settings))
    refuse(written, sentence)


def test_a_network_of_other_columns_than_points_have_labels_none(tmp_path: Path) -> None:
    settings: dict[str, Any] = {'width': 0.125, 'in_channels': 5}
    spec = SPEC.model_copy(update={'model': ModelSpec(name='minkunet', settings=settings)})
    path = tmp_path / 'five.safetensors'
    save_bundle(path, build_model('minkunet', classes=19, **settings), spec)
    with pytest.raises(BundleError, match=r'takes 5 columns, and points have 4: x, y, z and in'):
        Segmenter(load_bundle(path))


def test_writing_and_loading_draw_no_random_numbers(written: Path, model: nn.Module) -> None:
    before = torch.get_rng_state()
    load_bundle(written)
    save_bundle(written, model, SPEC)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('name', sorted(MODELS))
def test_every_network_is_loaded_whole_and_trainable(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {'channels': [8, 8], 'layers': [1, 1]}
    if name != 'spunet':
        name, settings = 'litept_s' if name == 'litept' else f'{name}_quarter', {}
    spec = SPEC.model_copy(update={'model': ModelSpec(name=name, settings=settings)})
    model = build_model(name, classes=19, **settings)
    save_bundle(tmp_path / 'a.safetensors', model, spec)
    loaded = load_bundle(tmp_path / 'a.safetensors').model
    (tmp_path / 'a.safetensors').write_bytes(b'')  # nothing of it is read later
    state = model.state_dict()
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_missing_and_unexpected_tensors_are_named(written: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors['head.bias']
        tensors['tail.bias'] = torch.zeros(2)

    rewrite(written, tensors=change)
    refuse(written, r'1 missing: head\.bias; 1 unexpected: tail\.bias')


def test_a_tensor_of_another_shape_is_named_with_both_shapes(written: Path) -> None:
    rewrite(written, tensors=lambda tensors: tensors.update({'head.bias': torch.zeros(16)}))
    refuse(written, r'1 of another shape: head\.bias \(16,\) instead of \(19,\)')


def test_only_the_first_few_of_many_tensors_are_named(written: Path) -> None:
    rewrite(written, document=lambda d: d['model'].update(settings={'width': 0.25}))
    refuse(written, r'of another shape: [^;]*, \.\.\.\)')


def test_weights_that_are_not_finite_are_refused(written: Path) -> None:
    rewrite(written, tensors=lambda tensors: tensors['head.bias'].fill_(float('nan')))
    refuse(written, r'1 not finite: head\.bias')


def test_classes_and_label_table_must_agree(written: Path) -> None:
    rewrite(written, document=lambda d: d['model']['settings'].update(classes=16))
    refuse(written, "the network has 16 classes, its label table 'semantickitti' 19")


def test_an_unknown_network_or_setting_is_refused(written: Path) -> None:
    rewrite(written, document=lambda d: d['model']['settings'].update(depth=3))
    refuse(written, 'depth')
    rewrite(written, document=lambda d: d['model'].update(name='bignet', settings={}))
    refuse(written, 'bignet')


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installation's bundles, empty."""
    monkeypatch.setattr('lidar_kd.bundle.resources.files', lambda package: tmp_path)
    (tmp_path / 'weights').mkdir()
    return tmp_path / 'weights'


def test_without_a_shipped_bundle_one_must_be_named(weights: Path) -> None:
    with pytest.raises(BundleError, match='no bundle came with'):
        find_shipped_bundle()


def test_of_several_shipped_bundles_the_largest_comes_first(weights: Path) -> None:
    for name, size in {'a': 1, 'b': 3, 'c': 2}.items():
        (weights / f'{name}.safetensors').write_bytes(bytes(size))
    assert [path.stem for path in list_shipped_bundles()] == ['b', 'c', 'a']
    assert find_shipped_bundle() == weights / 'b.safetensors'


def test_the_description_is_typed_and_frozen() -> None:
    with pytest.raises(ValidationError):
        ModelSpec(name='minkunet', settings={}, width=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        SPEC.model = ModelSpec(name='other')

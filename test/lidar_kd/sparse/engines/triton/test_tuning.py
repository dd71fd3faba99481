# SPDX-License-Identifier: Apache-2.0
"""The tuner with a clock that is made up: what it tries, what it keeps, what is read of it."""

from __future__ import annotations

from dataclasses import replace
import json
import logging
from pathlib import Path
import sys

import pytest
import torch

from lidar_kd.cli import tune
from lidar_kd.cli.console import Console
from lidar_kd.models import build_model
from lidar_kd.sparse.engines.maps import key_layout, submanifold_pairs
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.sparse.engines.triton.tiles import DeviceTiles, tiles_of
from lidar_kd.sparse.engines.triton.tuned import read_tuned, tuned_file, write_tuned
from lidar_kd.sparse.engines.triton.tuning import (
    layer_run,
    tune_layer,
    TunedLayer,
)

TILES = tiles_of(87)
LAYER = TunedLayer('convolution', torch.float16, 32, 64)
SHIPPED = LAYER.sizes(TILES)


def test_what_is_clearly_faster_is_taken_one_number_after_the_other() -> None:
    def time_ms(tiles: DeviceTiles, layer: TunedLayer) -> float:
        sizes = layer.sizes(tiles)
        return sizes.warps + sizes.stages / 10  # 4.3 as shipped; 2.3 with half the warps, ...

    assert (SHIPPED.warps, SHIPPED.stages) == (4, 3)
    assert tune_layer(TILES, LAYER, time_ms) == replace(SHIPPED, warps=2, stages=2)


def test_what_may_be_chance_is_not_taken() -> None:
    def time_ms(tiles: DeviceTiles, layer: TunedLayer) -> float:
        return 1.0 if layer.sizes(tiles) == SHIPPED else 0.98

    assert tune_layer(TILES, LAYER, time_ms) == SHIPPED


def test_sizes_that_the_gpu_refuses_are_left_out() -> None:
    def time_ms(tiles: DeviceTiles, layer: TunedLayer) -> float:
        sizes = layer.sizes(tiles)
        if sizes.depth > SHIPPED.depth:
            raise RuntimeError('out of resource: shared memory')
        return 1 / sizes.depth

    assert tune_layer(TILES, LAYER, time_ms) == SHIPPED


def test_every_shape_of_a_network_is_tuned_once() -> None:
    model = build_model('minkunet_quarter', classes=19)
    layers = tune.layers_to_tune(model, torch.float16, trains=False)
    assert LAYER in layers
    assert len({layer.key for layer in layers}) == len(layers)
    both = tune.layers_to_tune(model, torch.float16, trains=True)
    assert len(both) == 2 * len(layers)


def test_what_is_written_is_read_and_used(tmp_path: Path) -> None:
    wide = replace(SHIPPED, columns=128, warps=8)
    write_tuned(tmp_path / 'deeper' / 'tiles.json', 'a GPU', {LAYER.key: wide})
    tuned = read_tuned(tmp_path / 'deeper' / 'tiles.json', TILES.rows)
    tiles = replace(TILES, tuned=tuned)
    assert LAYER.sizes(tiles) == wide
    assert tiles.convolution(torch.float32, 32, 64) == TILES.convolution(torch.float32, 32, 64)


@pytest.mark.parametrize(
    'sizes',
    ['[32, 48, 32, 4, 3]', '[32, 64, 4096, 4, 3]', '[64, 64, 64, 4, 3]', '[32, 64]', '"wide"'],
)
def test_a_damaged_file_leaves_the_tiles_as_they_ship(
    sizes: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'tiles.json'
    path.write_text(f'{{"sizes": {{"{LAYER.key}": {sizes}}}}}')
    with caplog.at_level(logging.WARNING):
        assert read_tuned(path, TILES.rows) == {}
    assert 'tune again or remove it' in caplog.text


def test_the_file_is_another_one_for_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', '/cache')
    assert tuned_file('one GPU').parent == Path('/cache/lidar_kd')
    before = tuned_file('one GPU')
    assert tuned_file('another GPU') != before
    monkeypatch.setattr(torch, '__version__', '9.9')
    assert tuned_file('one GPU') != before


@pytest.mark.parametrize('kind', ['convolution', 'gradient'])
def test_a_layer_has_the_same_numbers_in_every_type(kind: str) -> None:
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32)
    layout = key_layout(coords)
    pairs = submanifold_pairs(layout.keys(coords), (3, 3, 3), layout)
    exact = layer_run(TorchEngine(), TunedLayer(kind, torch.float32, 4, 8), pairs)()
    half = layer_run(TorchEngine(), TunedLayer(kind, torch.float16, 4, 8), pairs)()
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=1e-2, rtol=1e-2)


def test_the_command_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))

    def time_ms(tiles: DeviceTiles, layer: TunedLayer) -> float:
        return float(layer.sizes(tiles).warps) if layer.c_out == 64 else 1.0

    model = build_model('minkunet_quarter', classes=19)
    path = tune.tune_network(
        Console(), model, TILES, lambda: time_ms, dtype=torch.float16, trains=False, gpu='a GPU'
    )
    written = json.loads(path.read_text())
    assert written['gpu'] == 'a GPU'
    assert {key.rpartition(' ')[2] for key in written['sizes']} == {'64'}
    assert all(sizes[3] == 2 for sizes in written['sizes'].values())
    assert str(path.name) in ''.join(capsys.readouterr().out.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_without_a_gpu_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['tune'])
    assert tune.main() == 2
    assert 'torch sees no CUDA device here' in ' '.join(capsys.readouterr().err.split())


def test_a_linear_layer_of_many_channels_fetches_nothing_ahead() -> None:
    # 192 channels by 64 are three steps; 128 are two
    assert TILES.linear(torch.float16, 192, 128).stages == 1
    assert TILES.linear(torch.float16, 128, 128) == TILES.convolution(torch.float16, 128, 128)
    assert TILES.convolution(torch.float16, 192, 128).stages == 3

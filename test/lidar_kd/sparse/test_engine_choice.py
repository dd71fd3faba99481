# SPDX-License-Identifier: Apache-2.0
"""Which engine computes, who decides, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator
import logging
from pathlib import Path
import shutil

import pytest
import torch

from lidar_kd.errors import ConfigError
from lidar_kd.sparse import Engine, Level, select_engine
from lidar_kd.sparse import select as engine_module
from lidar_kd.sparse.engines.native import library as native_library
from lidar_kd.sparse.engines.native.engine import NativeEngine
from lidar_kd.sparse.engines.native.library import native_missing
from lidar_kd.sparse.engines.plain_torch import TorchEngine

LOGGER = engine_module.__name__
needs_native = pytest.mark.skipif(bool(native_missing()), reason=native_missing())


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv('LIDAR_KD_ENGINE', raising=False)
    monkeypatch.delenv('LIDAR_KD_ISA', raising=False)
    forget()
    yield
    forget()


def forget() -> None:
    engine_module._select.cache_clear()
    native_library._load.cache_clear()


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_library, 'FOLDER', tmp_path)
    forget()


@needs_native
def test_the_native_engine_is_the_choice_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    assert select_engine('cpu').name == 'native'
    assert select_engine(torch.device('cpu'), 'auto') is select_engine('cpu', None)
    assert caplog.messages == ['engine native on cpu']


@needs_native
def test_a_library_of_other_sources_is_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(native_library.FOLDER, tmp_path / 'native')
    monkeypatch.setattr(native_library, 'FOLDER', folder)
    forget()
    assert select_engine('cpu').name == 'native'
    forget()
    with (folder / 'maps.c').open('a') as source:
        source.write('/* pulled, and not compiled yet */')
    assert select_engine('cpu').name == 'torch'
    assert 'compiled from other sources' in caplog.text


def test_an_argument_decides() -> None:
    assert select_engine('cpu', 'torch').name == 'torch'
    own = TorchEngine()
    assert select_engine('cpu', own) is own
    assert Level(torch.zeros(1, 4), 'torch').engine.name == 'torch'


def test_the_environment_decides_unless_an_argument_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('LIDAR_KD_ENGINE', 'torch')
    assert select_engine('cpu').name == 'torch'
    monkeypatch.setenv('LIDAR_KD_ENGINE', 'spconv')
    assert select_engine('cpu', 'torch').name == 'torch'
    monkeypatch.setenv('LIDAR_KD_ENGINE', '')  # as if it were not set
    assert select_engine('cpu').name in ('native', 'torch')


@pytest.mark.parametrize('source', ['argument', 'environment'])
def test_an_unknown_engine_is_refused(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setenv('LIDAR_KD_ENGINE', 'minkowski' if source == 'environment' else '')
    with pytest.raises(
        ConfigError, match="'minkowski': choose one of auto, torch, native, triton"
    ):
        select_engine('cpu', 'minkowski' if source == 'argument' else None)


@pytest.mark.usefixtures('without_native')
def test_without_native_kernels_plain_torch_computes_and_says_once_what_that_costs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert select_engine('cpu').name == 'torch'
    assert select_engine('cpu').name == 'torch'
    [record] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    message = record.getMessage()
    assert 'about 5x slower' in message
    assert 'was not compiled (install gcc, then reinstall lidar_kd)' in message


@pytest.mark.usefixtures('without_native')
def test_native_kernels_that_were_asked_for_must_be_there() -> None:
    with pytest.raises(ConfigError, match='engine native: the native kernel was not compiled'):
        select_engine('cpu', 'native')


@pytest.mark.usefixtures('without_native')
def test_a_library_that_does_not_load_is_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / '_kernels.abi3.so').write_bytes(b'not a library')
    with pytest.raises(ConfigError, match='engine native: the native kernel does not load'):
        select_engine('cpu', 'native')
    assert select_engine('cpu').name == 'torch'


def test_spconv_is_never_used_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match='engine spconv: .*on a CPU; choose another or leave it'):
        select_engine('cpu', 'spconv')


def test_native_kernels_compute_on_a_cpu_only() -> None:
    with pytest.raises(ConfigError, match='engine native: it runs on the CPU only'):
        select_engine('cuda', 'native')


def test_triton_computes_on_a_gpu_only() -> None:
    with pytest.raises(ConfigError, match='engine triton: it runs on NVIDIA GPUs only'):
        select_engine('cpu', 'triton')


def test_without_triton_and_spconv_plain_torch_computes_on_cuda_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, 'spconv_missing', lambda: 'it is not installed')
    monkeypatch.setattr(engine_module, 'triton_missing', lambda: 'its self-test failed (signal 8)')
    assert select_engine('cuda').name == 'torch'
    assert caplog.messages == [
        'engine torch on cuda (slower): no triton: its self-test failed (signal 8); '
        'no spconv: it is not installed'
    ]
    with pytest.raises(ConfigError, match='engine spconv: it is not installed'):
        select_engine('cuda', 'spconv')
    with pytest.raises(ConfigError, match='engine triton: its self-test failed'):
        select_engine('cuda', 'triton')


@pytest.mark.parametrize(
    ('times', 'expected'),
    [
        ({'triton': 1.0, 'spconv': 2.0, 'torch': 3.0}, 'triton'),
        ({'triton': 2.5, 'spconv': 2.0, 'torch': 3.0}, 'spconv'),
        ({'triton': 4.0, 'spconv': 3.5, 'torch': 3.0}, 'torch'),
        ({'spconv': 2.0, 'torch': 3.0}, 'spconv'),  # triton fails when it is measured
        ({'torch': 3.0}, 'torch'),
        ({}, 'torch'),
    ],
)
def test_on_a_gpu_the_fastest_engine_that_works_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    times: dict[str, float],
    expected: str,
) -> None:
    caplog.set_level(logging.INFO)

    def measure(engine: Engine) -> float:
        if engine.name not in times:
            raise RuntimeError('CUDA out of memory\nmore lines')
        return times[engine.name]

    def make(name: str, device_type: str) -> Engine:
        engine = TorchEngine(device_type)
        engine.name = name
        return engine

    monkeypatch.setattr(engine_module, '_missing', lambda name, device_type: '')
    monkeypatch.setattr(engine_module, '_make', make)
    monkeypatch.setattr(engine_module, 'time_layers', measure)
    assert select_engine('cuda').name == expected
    left_out = [
        text for text in caplog.messages if text.endswith('is left out: CUDA out of memory')
    ]
    assert len(left_out) == 3 - len(times)
    assert caplog.messages[-1] == f'engine {expected} on cuda'


def test_other_devices_get_plain_torch() -> None:
    assert select_engine('meta').name == 'torch'


@pytest.mark.parametrize(
    'path',
    ['/opt/my robot/torch/lib/libgomp.so.1', '/t.libs/libgomp-98b2.so.1.0.0', '/libgomp.so'],
)
def test_the_openmp_that_torch_loaded_is_found_in_any_folder(path: str) -> None:
    head = '7f00-7f01 r-xp 00000000 08:01 12                  '
    maps = f'{head}/usr/lib/libc.so.6\n{head}[heap]\n{head}{path}\n{head}{path}\n'
    assert native_library.find_openmp(maps) == path
    assert native_library.find_openmp(f'{head}/usr/lib/libc.so.6\n') is None


@needs_native
def test_the_instruction_set_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('LIDAR_KD_ISA', 'portable')
    engine = NativeEngine()
    assert engine.isa == 'portable'
    assert not engine.computes(torch.bfloat16)  # matrix units would be no lesser machine


@needs_native
@pytest.mark.parametrize('isa', ['avx9', 'amx', 'avx512bf16'])  # the last two: bfloat16 only
def test_an_instruction_set_without_float32_kernels_is_refused(
    monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    monkeypatch.setenv('LIDAR_KD_ISA', isa)
    with pytest.raises(ConfigError, match=f'LIDAR_KD_ISA: no float32 kernels for {isa!r}'):
        NativeEngine()

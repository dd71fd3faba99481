# SPDX-License-Identifier: Apache-2.0
"""What tests share: the checkout on sys.path, this environment in the ament index, the engines."""

from __future__ import annotations

from collections.abc import Generator, Iterator
import gc
import os
from pathlib import Path
import signal
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ros_partner import Partner

    from lidar_kd.ros.node import SegmentNode
    from lidar_kd.sparse import Engine

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Before a test imports torch: lidar_kd says how its threads wait.
import lidar_kd  # noqa: E402, F401

# Nothing sets it for a pip user, and ament_index_python looks nowhere else.
prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join(filter(None, prefixes))

# A shell lets what it starts in the background ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: no full collection, of hundreds, looks at all of torch."""
    gc.disable()
    collected = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return collected


def pytest_unconfigure() -> None:
    from started_command import end_starting

    end_starting()


ROS_TESTS = ('test_demo', 'test_launch', 'test_node', 'test_processes', 'test_replay')
REPORTING = ('comparing', 'run')  # rooms whose tests end many a run
NATIVE = ('avx512', 'avx2', 'portable')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side (-n 2) a file stays in one process, and so do all that talk over ROS."""
    for item in items:
        name = item.path.stem
        group = 'ros' if name.startswith(ROS_TESTS) else name
        item.add_marker(pytest.mark.xdist_group(group))


def make_engine(name: str) -> Engine:
    from lidar_kd.sparse.engines.native.engine import NativeEngine
    from lidar_kd.sparse.engines.native.library import native_missing
    from lidar_kd.sparse.engines.plain_torch import TorchEngine

    if name in ('torch', 'torch unrolled'):
        engine = TorchEngine()
        engine.unrolls_on_cpu = name == 'torch unrolled'
        return engine
    if native_missing():
        pytest.skip(native_missing())
    try:
        return NativeEngine(None if name == 'best' else name)
    except ValueError as reason:
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def _loggers_reach_caplog() -> None:
    from own_loggers import open_loggers

    open_loggers()


@pytest.fixture(autouse=True)
def _report_fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report draws for half a second, and test_report sees to what: a run's own tests do not."""
    if request.path.parent.name not in REPORTING:
        return
    import numpy as np

    from lidar_kd.segmenter import Segmenter
    from training.reports import draw, report

    blank = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(report, 'draw_confusion', lambda confusion, table: blank)
    monkeypatch.setattr(draw, '_render', lambda figure: blank)
    monkeypatch.setattr(Segmenter.warm_up, '__defaults__', (1000,))


@pytest.fixture(scope='module')
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_run import make_street

    return make_street(tmp_path_factory.mktemp('street'))


@pytest.fixture
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Caches lie below the folder one is in; the number of threads is put back."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=('torch', 'torch unrolled', *NATIVE))
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine that a CPU may have, and what plain torch does on a card."""
    return make_engine(request.param)


@pytest.fixture(params=NATIVE)
def native(request: pytest.FixtureRequest) -> Engine:
    return make_engine(request.param)


@pytest.fixture(params=('amx', 'avx512bf16'))
def bfloat16_engine(request: pytest.FixtureRequest) -> Engine:
    """Both kinds of bfloat16 kernels, wherever the CPU has them."""
    import torch

    from lidar_kd.sparse.engines.native.engine import NativeEngine

    make_engine('best')  # skips where nothing was compiled
    engine = NativeEngine(bfloat16=[request.param])
    if not engine.computes(torch.bfloat16):
        pytest.skip(f'this CPU or this build has no {request.param}')
    return engine


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Two threads unless a test asks for more: a race cannot show on one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request, 'param', 2))
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network with random weights."""
    from ros_partner import write_bundle

    return str(write_bundle(tmp_path_factory.mktemp('bundle') / 'small.safetensors'))


@pytest.fixture
def partner() -> Iterator[Partner]:
    """The node's other side, in a ROS domain of this test's own."""
    from ros_partner import leave_domain, Partner, spinning

    leave_domain()
    with spinning(Partner) as node:
        yield node


@pytest.fixture
def node(partner: Partner, small_bundle: str) -> Iterator[SegmentNode]:
    """Not configured yet."""
    from ros_partner import running_node

    with running_node(model=small_bundle, output_classes='train') as node:
        yield node

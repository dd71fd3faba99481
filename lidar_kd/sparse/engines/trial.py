# SPDX-License-Identifier: Apache-2.0
"""Whether an engine that came from elsewhere, or was compiled just now, computes what it should.

It is tried once on each machine, in a process of its own, against plain torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
import hashlib
import os
from pathlib import Path
import subprocess
import sys

import torch
from torch import Tensor

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap, key_layout, strided_pairs, submanifold_pairs
from lidar_kd.sparse.engines.plain_torch import TorchEngine


def tried_once(name: str, files: Sequence[str], run: Callable[[], str]) -> str:
    """What `run` finds wrong; not asked again where it once found nothing with these files, this
    torch and this GPU.
    """
    passed = _mark(name, files)
    if passed.exists():
        return ''
    reason = run()
    if not reason:
        with suppress(OSError):  # without a cache the next start tests again
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.touch()
    return reason


def _mark(name: str, files: Sequence[str]) -> Path:
    """The file whose presence says that these files passed with this torch on this device."""
    state = [f'{file} {os.stat(file).st_mtime_ns}' for file in files]
    state += [torch.__version__, torch.cuda.get_device_name()]
    return cache_folder() / f'{name}-{short_digest(state)}'


def short_digest(lines: Sequence[str]) -> str:
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where what was found out about this machine is kept."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'lidar_kd')


def run_apart(code: str, timeout_s: float) -> str:
    """How a program failed, empty where it did not; a build for another driver may die by a
    signal.
    """
    try:
        done = subprocess.run(
            [sys.executable, '-c', code],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f'its self-test took longer than {timeout_s} s'
    if done.returncode < 0:
        return f'its self-test failed (signal {-done.returncode})'
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or [f'exit status {done.returncode}']
        return f'its self-test failed ({complaint[-1]})'
    return ''


def maps_to_test(coords: Tensor) -> dict[str, KernelMap]:
    """coords: sorted, distinct cells (N, 4)."""
    layout = key_layout(coords)
    keys = layout.keys(coords)
    down = strided_pairs(coords, (2, 2, 2), layout)[1]
    return {
        'submanifold 3': submanifold_pairs(keys, (3, 3, 3), layout),
        'submanifold 5': submanifold_pairs(keys, (5, 5, 5), layout),
        'strided 2': down,
        'inverse 2': down.transposed,
    }


def largest_error(
    engine: Engine, pairs: KernelMap, c_in: int, c_out: int, dtype: torch.dtype
) -> float:
    """Of result, dX and dW against plain torch in float32, relative to each one's largest."""
    device = pairs.in_rows.device
    x = torch.randn(pairs.n_in, c_in, device=device).to(dtype)
    weight = torch.randn(c_out, pairs.slots, c_in, device=device).to(dtype) / c_in
    dy = torch.randn(pairs.n_out, c_out, device=device).to(dtype)
    got = [engine.forward(x, weight, pairs)]
    got += [g for g in engine.backward(x, weight, dy, pairs, need_x=True) if g is not None]
    oracle = TorchEngine()
    x, weight, dy = x.float(), weight.float(), dy.float()
    wanted = [oracle.forward(x, weight, pairs)]
    wanted += [g for g in oracle.backward(x, weight, dy, pairs, need_x=True) if g is not None]
    errors = [(a.float() - b).abs().max() / b.abs().max() for a, b in zip(got, wanted)]
    return torch.stack(errors).max().item()  # unlike max() it keeps a NaN

# SPDX-License-Identifier: Apache-2.0
"""Whether the Triton engine works here: installed, on a GPU that is new enough, tried once."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
import sys

import torch

from lidar_kd.sparse.engines.trial import largest_error, maps_to_test, run_apart, tried_once
from lidar_kd.sparse.engines.triton.tuned import tiles_for, tuned_file

OLDEST = (8, 0)  # compute capability: bfloat16, and copies that nobody waits for
TIMEOUT_S = 600  # it compiles some forty kernels; a Jetson takes seconds for each
SELF_TEST = (
    'import sys; sys.path[:] = {path!r}; '
    'from lidar_kd.sparse.engines.triton.missing import try_kernels; try_kernels({device})'
)
LIMITS = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5}
CHANNELS = {
    torch.float16: ((4, 32), (32, 48), (160, 136)),
    torch.bfloat16: ((32, 48),),
    torch.float32: ((32, 48),),
}


@cache
def triton_missing() -> str:
    """Why Triton cannot compute on this machine's CUDA device; empty when it can."""
    spec = find_spec('triton')
    if spec is None or not spec.origin:
        return 'it is not installed (pip install triton)'
    if torch.cuda.get_device_capability() < OLDEST:
        return f'it wants compute capability {OLDEST[0]}.{OLDEST[1]}'
    files = [Path(spec.origin), *sorted(Path(__file__).parent.glob('*.*'))]
    tuned = tuned_file(torch.cuda.get_device_name())
    files += [tuned] if tuned.is_file() else []
    return tried_once(
        'triton', [*map(str, files)], lambda: _try_apart(torch.cuda.current_device())
    )


def _try_apart(device: int) -> str:
    return run_apart(SELF_TEST.format(path=sys.path, device=device), TIMEOUT_S)


def try_kernels(device: int) -> None:
    """Results and gradients of every kind of layer against plain torch, twice the same; exits
    when one is off.
    """
    from lidar_kd.sparse.engines.triton.engine import TritonEngine

    torch.manual_seed(0)
    torch.cuda.set_device(device)
    engine = TritonEngine('cuda', tiles_for(torch.device('cuda', device)))
    coords = torch.nonzero(torch.rand(2, 20, 20, 20) < 0.2).to('cuda')
    for name, pairs in maps_to_test(coords.int()).items():
        for dtype, limit in LIMITS.items():
            for c_in, c_out in CHANNELS[dtype]:
                off = largest_error(engine, pairs, c_in, c_out, dtype)
                if not off <= limit:  # NaN too
                    raise SystemExit(f'{name} {c_in} -> {c_out} in {dtype} is off by {off:.1e}')
        x = torch.randn(pairs.n_in, 32, device='cuda').half()
        weight = torch.randn(48, pairs.slots, 32, device='cuda').half()
        if not torch.equal(engine.forward(x, weight, pairs), engine.forward(x, weight, pairs)):
            raise SystemExit(f'{name}: two runs differ')

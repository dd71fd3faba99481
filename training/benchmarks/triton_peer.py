# SPDX-License-Identifier: Apache-2.0
"""spconv-triton as a peer to measure against on a GPU, a Jetson's too; never an engine of the
package.

It has spconv's interface, so that it multiplies over our maps, in the same loop, through the same
tables as spconv does.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from lidar_kd.errors import ConfigError
from lidar_kd.sparse.engines.spconv import SpconvEngine
from lidar_kd.sparse.engines.trial import largest_error, maps_to_test

VERSION = '1.0.0'
NEEDS = {
    'spconv_triton': f'it is not installed (pip install spconv-triton=={VERSION})',
    'triton': 'Triton is not installed (pip install triton)',
}
TOLERANCE = 5e-2  # of float16; what it is off by is told beside its times


class SpconvTritonPeer(SpconvEngine):
    name = 'spconv-triton'

    def __init__(self) -> None:
        from spconv_triton.pytorch import ops

        self._ops = ops


def make_triton_peer(device: str) -> SpconvTritonPeer:
    """Refused with a reason where it is missing, fails, or computes something else."""
    for package, reason in NEEDS.items():
        if find_spec(package) is None:
            raise ConfigError(f'peer spconv-triton: {reason}.')
    try:
        peer = SpconvTritonPeer()
        off = _error(peer, device)
    except (ImportError, RuntimeError, AssertionError) as error:  # of Triton's compiler as well
        raise ConfigError(f'peer spconv-triton: it fails here ({_first_line(error)}).') from error
    if not off <= TOLERANCE:  # NaN too
        raise ConfigError(f'peer spconv-triton: it is off by {off:.1e}.')
    return peer


def _error(peer: SpconvTritonPeer, device: str) -> float:
    """The largest of any kind of layer, and of its gradients."""
    torch.manual_seed(0)
    coords = torch.nonzero(torch.rand(2, 12, 12, 12) < 0.2).int().to(device)
    dtype = torch.float16 if device == 'cuda' else torch.float32
    maps = maps_to_test(coords)
    return max(largest_error(peer, maps[name], 32, 48, dtype) for name in maps)


def _first_line(error: Exception) -> str:
    return str(error).partition('\n')[0] or type(error).__name__

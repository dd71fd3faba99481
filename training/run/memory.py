# SPDX-License-Identifier: Apache-2.0
"""The most memory that a run has held: of the GPU, or of this process on a CPU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

_PROCESS = Path('/proc/self')


def reset_peak(device: torch.device) -> None:
    """Forgets what earlier work of this process has taken, where the system lets us."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # no such file outside Linux, or not ours to write in a container
        (_PROCESS / 'clear_refs').write_text('5')


def peak_gb(device: torch.device) -> float:
    """NaN where the system does not tell."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        status = (_PROCESS / 'status').read_text()
    except OSError:
        return float('nan')
    return int(status.split('VmHWM:')[1].split()[0]) * 1024 / 1e9

# SPDX-License-Identifier: Apache-2.0
"""What torch does only by making the host wait for a GPU, done without that.

Each has the CPU's way beside it, which is faster there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bring(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device. Only from pinned memory is the copy the GPU's own work:
    any other makes the host wait until all before it is done.
    """
    if device.type == 'cpu' or not tensor.is_cpu:
        return tensor.to(device)
    pinned = tensor.pin_memory() if device.type == 'cuda' else tensor
    return pinned.to(device, non_blocking=True)


def count_rows(rows: Tensor, size: int, chosen: Tensor | None = None) -> Tensor:
    """(size,) int64: how often each number occurs among the rows (M,), the chosen ones if told."""
    if not rows.is_cuda:
        return torch.bincount(rows if chosen is None else rows[chosen], minlength=size)
    each = torch.ones_like(rows, dtype=torch.long) if chosen is None else chosen.long()
    return torch.zeros(size, dtype=torch.long, device=rows.device).index_add_(0, rows, each)

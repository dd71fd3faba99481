# SPDX-License-Identifier: Apache-2.0
"""Torch's generators, on the CPU and on the device, as one tensor that a checkpoint can hold."""

from __future__ import annotations

import torch
from torch import Tensor


def random_state(device: torch.device) -> Tensor:
    parts = [torch.get_rng_state()]
    if device.type == 'cuda':
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat(parts)


def set_random_state(state: Tensor, device: torch.device) -> None:
    """A state from another kind of device sets the CPU's generator alone."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == 'cuda' and len(state) > size:
        torch.cuda.set_rng_state(state[size:], device)

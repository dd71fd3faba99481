# SPDX-License-Identifier: Apache-2.0
"""The processes of one run: one, or as many as torchrun started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, Tensor

from lidar_kd.cli.jobs import Rank
from lidar_kd.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    world: int = 1
    local: int = 0  # among those of this machine; the number of its GPU

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            distributed.barrier()

    @contextmanager
    def first_one_first(self) -> Iterator[None]:
        """The first rank makes what is missing on disk, then the others find it."""
        if not self.is_first:
            self.barrier()
        yield
        if self.is_first:
            self.barrier()

    def any(self, wanted: bool) -> bool:
        """Whether one of the processes wants it; the same answer in all."""
        if self.world == 1:
            return wanted
        flag = torch.tensor([int(wanted)], device=self._device())
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())

    def gather(self, value: Tensor) -> list[Tensor]:
        """What every rank has, in their order."""
        if self.world == 1:
            return [value]
        sent = value.to(self._device())
        parts = [torch.empty_like(sent) for _ in range(self.world)]
        distributed.all_gather(parts, sent)
        return [part.cpu() for part in parts]

    def _device(self) -> str:
        return f'cuda:{self.local}' if distributed.get_backend() == 'nccl' else 'cpu'


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Reads what torchrun set; gloo on CPUs, nccl on GPUs."""
    rank = Rank.from_environment()
    if rank.world == 1:
        yield Ranks()
        return
    backend = 'gloo'
    if torch.cuda.is_available():
        backend = 'cpu:gloo,cuda:nccl'  # with --device cpu tensors stay there
        torch.cuda.set_device(rank.local)
    # the first rank may simulate streets or train a teacher while the others wait
    try:
        distributed.init_process_group(backend, timeout=timedelta(hours=12))
    except (ValueError, RuntimeError) as error:  # where MASTER_ADDR is not set, or nobody answers
        reason = ' '.join(str(error).split())
        raise ConfigError(
            f'the {rank.world} processes of this run do not find one another ({reason}); start '
            'it with torchrun, or unset WORLD_SIZE.'
        ) from None
    try:
        yield Ranks(rank.index, rank.world, rank.local)
    finally:
        distributed.destroy_process_group()

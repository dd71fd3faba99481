# SPDX-License-Identifier: Apache-2.0
"""Points to cells, and logits to answers, in the native library."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lidar_kd.sparse.engines.native.checks import check_tensor
from lidar_kd.sparse.engines.native.library import address, OUT_OF_RANGE, succeed
from lidar_kd.sparse.engines.native.structs import AnswersJob, GroupsJob, Int64
from lidar_kd.sparse.engines.parts import check_classes, Grouping, RowAnswers


class NativeGrouping(Grouping):
    def __init__(self, library: ctypes.CDLL) -> None:
        self._c = library

    def group(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_tensor('keys', keys, torch.int64, None)
        keys = keys.contiguous()
        group, order = torch.empty(2, len(keys), dtype=torch.int32)
        first = torch.empty(len(keys) + 1, dtype=torch.int32)
        count = self._c.lk_group(
            address(keys), Int64(len(keys)), address(group), address(order), address(first)
        )
        succeed(count)
        first = first[: count + 1]
        return group, order[: int(first[-1])], first

    def means(self, rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        if rows.dtype != torch.float32:
            return super().means(rows, order, starts)
        check_tensor('rows', rows, torch.float32, None, None)
        check_tensor('order', order, torch.int32, None)
        check_tensor('starts', starts, torch.int32, None)
        rows, order, starts = rows.contiguous(), order.contiguous(), starts.contiguous()
        means = torch.empty(max(0, len(starts) - 1), rows.shape[1])
        job = GroupsJob(
            values=rows.data_ptr(),
            order=order.data_ptr(),
            first=starts.data_ptr(),
            means=means.data_ptr(),
            rows=len(rows),
            ordered=len(order),
            groups=len(means),
            columns=rows.shape[1],
            threads=torch.get_num_threads(),
        )
        if self._c.lk_means(ctypes.byref(job)) == OUT_OF_RANGE:
            raise ValueError(
                f'native engine: groups that name others than {len(rows)} rows: '
                'give order and starts as group() returns them'
            )
        return means


class NativeAnswers(RowAnswers):
    def __init__(self, library: ctypes.CDLL) -> None:
        self._c = library

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_classes(logits)
        logits = logits.float().contiguous()
        check_tensor('logits', logits, torch.float32, None, None)
        rows, classes = logits.shape
        labels = torch.empty(rows, dtype=torch.uint8)
        probability, entropy = torch.empty(2, rows)
        job = AnswersJob(
            logits=logits.data_ptr(),
            label=labels.data_ptr(),
            probability=probability.data_ptr(),
            entropy=entropy.data_ptr(),
            rows=rows,
            classes=classes,
            threads=torch.get_num_threads(),
        )
        self._c.lk_answers(ctypes.byref(job))
        return labels, probability, entropy

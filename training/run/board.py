# SPDX-License-Identifier: Apache-2.0
"""The log's numbers for TensorBoard, where it is installed; elsewhere nothing happens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Board(Protocol):
    def add(self, row: Mapping[str, Any]) -> None: ...


class NoBoard:
    def add(self, row: Mapping[str, Any]) -> None:
        """Shows nothing."""


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and may be missing

        self._writer: Any = SummaryWriter(str(folder))

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name != 'step' and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row['step'])
        self._writer.flush()


def open_board(folder: Path) -> Board:
    try:
        return TensorBoard(folder)
    except ImportError:
        return NoBoard()

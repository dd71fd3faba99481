# SPDX-License-Identifier: Apache-2.0
"""Stands in for tf2_ros, which PyPI does not have: it knows the transforms that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

Known = Mapping[tuple[str, str], tuple[tuple[float, ...], tuple[float, ...]]]


class PretendTf(ModuleType):
    """known: (target, source) -> rotation x y z w, and translation x y z.

    It is module and buffer in one: `cleared` and `asked` tell what it was told and asked.
    """

    class TransformException(Exception):
        pass

    def __init__(self, known: Known) -> None:
        super().__init__('tf2_ros')
        self.known, self.cleared = known, 0
        self.asked: list[tuple[Any, Any]] = []  # stamps and patience, in nanoseconds
        self.Buffer = lambda: self
        self.TransformListener = lambda _, node: SimpleNamespace(unregister=lambda: None)

    def clear(self) -> None:
        self.cleared += 1

    def lookup_transform(self, target: str, source: str, stamp: Any, patience: Any) -> Any:
        self.asked.append((stamp.nanoseconds, patience.nanoseconds))
        if (target, source) not in self.known:
            raise self.TransformException(f'{source} does not exist')
        rotation, translation = self.known[target, source]
        turn = SimpleNamespace(**dict(zip('xyzw', rotation)))
        shift = SimpleNamespace(**dict(zip('xyz', translation)))
        return SimpleNamespace(transform=SimpleNamespace(rotation=turn, translation=shift))

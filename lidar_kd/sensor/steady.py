# SPDX-License-Identifier: Apache-2.0
"""A value that is found in scan after scan and changes only when several in a row say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar('T')
FIRST = 5  # values that the kept one is the middle of
_PATIENCE = 3  # others in a row that agree among themselves replace it


class Steady(Generic[T]):
    """`agree` tells whether two values are the same but for noise, `middle` averages some."""

    def __init__(self, agree: Callable[[T, T], bool], middle: Callable[[Sequence[T]], T]) -> None:
        self.value: T | None = None
        self._agree, self._middle = agree, middle
        self._taken: list[T] = []
        self._others: list[T] = []

    def see(self, found: T) -> bool:
        """Whether the kept value is another one now, not only a better average."""
        if self.value is None:
            return self._take([found])
        if self._agree(found, self.value):
            self._others = []
            if len(self._taken) < FIRST:
                self._take([*self._taken, found])
            return False
        self._others = [each for each in self._others if self._agree(each, found)] + [found]
        return len(self._others) >= _PATIENCE and self._take(self._others)

    def _take(self, values: list[T]) -> bool:
        self._taken, self._others = values, []
        self.value = self._middle(values)
        return True

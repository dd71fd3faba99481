# SPDX-License-Identifier: Apache-2.0
"""What is known about one parameter of the node: default, sentence, range, when it may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast, Literal, TypeVar

from lidar_kd.errors import ConfigError

Value = bool | int | float | str | Sequence[str] | Sequence[float]
# start: with the node only; unconfigured, inactive: up to that state; always: also while it runs
Changes = Literal['start', 'unconfigured', 'inactive', 'always']
T = TypeVar('T')


@dataclass(frozen=True, kw_only=True)
class Parameter:
    name: str
    default: Value
    description: str
    changes: Changes = 'always'
    lower: float = 0
    upper: float = 0  # no range where both are 0
    choices: tuple[str, ...] = ()

    def check(self, value: Value) -> None:
        if self.choices and value not in self.choices:
            raise ConfigError(
                f'parameter {self.name}: {value!r} is unknown; use one of '
                f'{", ".join(self.choices)}.'
            )
        if self.upper and not self.lower <= cast(float, value) <= self.upper:
            raise ConfigError(
                f'parameter {self.name}: {value} is outside {self.lower:g}..{self.upper:g}.'
            )

    def check_change(self, state: str) -> None:
        """`state` is the lifecycle's word for where the node is."""
        if self.changes == 'start':  # not read-only for ROS, which refuses also the same value
            raise ConfigError(
                f'parameter {self.name} is read once, with the node: give it in the parameter '
                'file, or as -p NAME:=VALUE, and start the node anew.'
            )
        if self.changes == 'unconfigured' and state not in ('unconfigured', 'finalized'):
            raise ConfigError(
                f'parameter {self.name} needs the bundle loaded anew: deactivate and clean up the '
                'node (ros2 lifecycle set NODE deactivate, then cleanup), set it, then configure.'
            )
        if self.changes == 'inactive' and state == 'active':
            raise ConfigError(
                f'parameter {self.name} needs a new subscription: deactivate the node '
                '(ros2 lifecycle set NODE deactivate), set it, then activate.'
            )


def parameter_field(default: T, description: str, **rest: Any) -> T:
    """A field of a dataclass whose values are parameters."""
    metadata = {'default': default, 'description': description, **rest}
    declared: T = field(default_factory=lambda: default, metadata=metadata)
    return declared

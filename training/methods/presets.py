# SPDX-License-Identifier: Apache-2.0
"""A method's settings by one word: `srkd: paper` in YAML, or `{preset: paper, output: 0.3}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

PAPER = 'paper'  # what the authors' paper and code say, where they say it


class PresetSettings(BaseModel):
    """Settings that may begin with a preset; what is written beside it counts more."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @model_validator(mode='before')
    @classmethod
    def _begin_with_preset(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {'preset': given}
        if not isinstance(given, Mapping) or 'preset' not in given:
            return given
        name = given['preset']
        if name not in cls.presets:
            raise ValueError(f"preset: unknown '{name}'. Choose one of {', '.join(cls.presets)}")
        return _merge(cls.presets[name], {k: v for k, v in given.items() if k != 'preset'})


def _merge(preset: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The preset with changes; a section such as `boxes` keeps what is not changed in it."""
    merged = dict(preset)
    for key, value in changes.items():
        inner = merged.get(key)
        is_section = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = {**inner, **value} if is_section else value  # type: ignore[dict-item]
    return merged

# SPDX-License-Identifier: Apache-2.0
"""What configuration files of published code say of a network; read as data, nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lidar_kd.errors import ConfigError
from training.importing.literals import python_literals

BASE, DELETE = '_base_', '_delete_'  # of mmengine: files to begin with; what replaces them whole
MOST_BASES = 16  # in one another, of which some may name each other
SEEN_IN_TRAINING = (('model',), ('data', 'train'))  # looked at first: tests may look otherwise

# ValueError and below: PyYAML lets through what is none of its type, as a date of month 99
UNREADABLE_TEXT = (
    *(OSError, SyntaxError, RecursionError, MemoryError, yaml.YAMLError),
    *(ValueError, TypeError, ArithmeticError, LookupError, AttributeError),
)


def read_configuration(path: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """The wanted settings of a .py, .yaml or .json file, wherever in it they stand."""
    whole = _read_whole(path, MOST_BASES)
    found: dict[str, Any] = {}
    for place in SEEN_IN_TRAINING:
        _collect(_part(whole, place), frozenset(wanted) - found.keys(), found, path)
    _collect(whole, frozenset(wanted) - found.keys(), found, path)
    return found


def read_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """--set key=value, the value as YAML."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition('=')
        if not equals or not key:
            raise ConfigError(f'--set {pair}: write key=value')
        try:
            found[key] = yaml.safe_load(value)
        except UNREADABLE_TEXT:
            raise ConfigError(f'--set {pair}: its value is no YAML') from None
    return found


def _read_whole(path: Path, most: int) -> Any:
    """With the files that it begins with, whose settings its own replace."""
    try:
        text = path.read_text()
        whole = python_literals(text, path) if path.suffix == '.py' else yaml.safe_load(text)
    except UNREADABLE_TEXT as error:
        if isinstance(error, ConfigError):
            raise
        reason = ' '.join(str(error).split())
        raise ConfigError(f'{path}: not readable as a configuration: {reason}') from None
    bases = whole.pop(BASE, []) if isinstance(whole, dict) else []
    if not most:
        raise ConfigError(f'{path}: {BASE}: more than {MOST_BASES} files begin with one another')
    merged: Any = {}
    for base in [bases] if isinstance(bases, str) else bases:
        file = path.parent / str(base)
        if not file.is_file():
            raise ConfigError(
                f'{path}: begins with {base}, which is not there: put that file beside it as in '
                f'its repository, or take the line {BASE} out and give what is asked for by --set'
            )
        merged = _merged(merged, _read_whole(file, most - 1))
    return _merged(merged, whole)


def _merged(under: Any, over: Any) -> Any:
    if not isinstance(under, dict) or not isinstance(over, dict) or over.get(DELETE):
        return over
    both = {key: _merged(under[key], over[key]) for key in under if key in over}
    return {**under, **over, **both}


def _part(whole: Any, place: Sequence[str]) -> Any:
    for key in place:
        whole = whole.get(key) if isinstance(whole, dict) else None
    return whole


def _collect(part: Any, wanted: frozenset[str], found: dict[str, Any], path: Path) -> None:
    for key, value in part.items() if isinstance(part, Mapping) else ():
        if key in wanted and found.setdefault(key, value) != value:
            raise ConfigError(
                f'{path}: {key} stands there twice with two values: give it by --set'
            )
        _collect(value, wanted, found, path)
    for value in part if isinstance(part, (list, tuple)) else ():
        _collect(value, wanted, found, path)

# SPDX-License-Identifier: Apache-2.0
"""What configuration files of published code say of a network; read as data, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from lidar_kd.errors import ConfigError

# ValueError, TypeError: PyYAML lets through what is none of its type, as a date of month 99
UNREADABLE_TEXT = (OSError, SyntaxError, RecursionError, MemoryError, ValueError, TypeError,
              ArithmeticError, LookupError, AttributeError, yaml.YAMLError)  # fmt: skip


def read_configuration(path: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """The wanted settings of a .py, .yaml or .json file, wherever in it they stand."""
    try:
        text = path.read_text()
        whole = python_literals(text, path) if path.suffix == '.py' else yaml.safe_load(text)
    except ConfigError:
        raise
    except UNREADABLE_TEXT as error:
        reason = ' '.join(str(error).split())
        raise ConfigError(f'{path}: not readable as a configuration: {reason}') from None
    found: dict[str, Any] = {}
    _collect(whole, frozenset(wanted), found, path)
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


def python_literals(text: str, path: Path) -> dict[str, Any]:
    """Names bound to literals, dict() and lists; other code is refused, not run."""
    names: dict[str, Any] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if not isinstance(node, ast.Assign) or not isinstance(target, ast.Name):
            raise _refused(path, node)
        names[target.id] = _value(node.value, names, path)
    return names


def _value(node: ast.expr, names: Mapping[str, Any], path: Path) -> Any:
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(part, names, path) for part in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values)
        return {str(_value(k, names, path)): _value(v, names, path) for k, v in pairs if k}
    if _is_dict_call(node):
        return {str(part.arg): _value(part.value, names, path) for part in node.keywords}
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _refused(path, node) from None


def _is_dict_call(node: ast.expr) -> TypeGuard[ast.Call]:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    plain = not node.args and all(part.arg for part in node.keywords)
    return node.func.id == 'dict' and plain


def _refused(path: Path, node: ast.stmt | ast.expr) -> ConfigError:
    return ConfigError(
        f'{path}, line {node.lineno}: code beyond literals, which is not run: '
        'write its value there, or give it by --set'
    )


def _collect(part: Any, wanted: frozenset[str], found: dict[str, Any], path: Path) -> None:
    for key, value in part.items() if isinstance(part, dict) else ():
        if key in wanted and found.setdefault(key, value) != value:
            raise ConfigError(
                f'{path}: {key} stands there twice with two values: give it by --set'
            )
        _collect(value, wanted, found, path)
    for value in part if isinstance(part, list) else ():
        _collect(value, wanted, found, path)

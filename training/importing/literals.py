# SPDX-License-Identifier: Apache-2.0
"""Python files of settings, read as data: literals, sums of numbers, names bound before, lists
that repeat an entry for each of a list.

Calls, imports and all else that would have to be run is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
import itertools
import operator
from pathlib import Path
from typing import Any, TypeGuard

from lidar_kd.errors import ConfigError

MOST_ENTRIES = 1000  # of a list that is written as a loop over lists
MOST_POWER = 64  # of 2 ** 16 and the like, not of what would fill the memory
Names = Mapping[str, Any]
_SIGNS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def python_literals(text: str, path: Path) -> dict[str, Any]:
    """Names bound to literals, dict() and lists; other code is refused, not run."""
    names: dict[str, Any] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if not isinstance(node, ast.Assign) or not isinstance(target, ast.Name):
            raise _refused(path, node)
        try:
            names[target.id] = _value(node.value, names)
        except _NotLiteral as found:
            raise _refused(path, found.node) from None
    return names


class _NotLiteral(Exception):
    def __init__(self, node: ast.expr) -> None:
        super().__init__()
        self.node = node


def _value(node: ast.expr, names: Names) -> Any:
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(part, names) for part in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values)
        return {str(_value(k, names)): _value(v, names) for k, v in pairs if k}
    if _is_dict_call(node):
        return {str(part.arg): _value(part.value, names) for part in node.keywords}
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        return _number(node, names)
    if isinstance(node, ast.Subscript):
        return _entry(node, names)
    if isinstance(node, ast.ListComp):
        return _entries(node, names)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _NotLiteral(node) from None


def _number(node: ast.BinOp | ast.UnaryOp, names: Names) -> float:
    """Of numbers and nothing else: a list times a million is no setting."""
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, names)
        if isinstance(node.op, ast.USub) and isinstance(value, (int, float)):
            return -value
        raise _NotLiteral(node)
    left, right = _value(node.left, names), _value(node.right, names)
    sign = _SIGNS.get(type(node.op))
    if sign is None or not all(isinstance(n, (int, float)) for n in (left, right)):
        raise _NotLiteral(node)
    if sign is operator.pow and max(abs(left), abs(right)) > MOST_POWER:
        raise _NotLiteral(node)
    try:
        result: float = sign(left, right)
    except ArithmeticError:
        raise _NotLiteral(node) from None
    return result


def _entry(node: ast.Subscript, names: Names) -> Any:
    """What stands under a key, as optimizer['lr']."""
    try:
        return _value(node.value, names)[ast.literal_eval(node.slice)]
    except (ValueError, LookupError, TypeError):
        raise _NotLiteral(node) from None


def _entries(node: ast.ListComp, names: Names) -> list[Any]:
    """[entry for a in list for b in list], without conditions."""
    targets, lists = [], []
    for loop in node.generators:
        values = _value(loop.iter, names)
        if loop.ifs or not isinstance(loop.target, ast.Name) or not isinstance(values, list):
            raise _NotLiteral(node)
        targets.append(loop.target.id)
        lists.append(values)
    found = []
    for values in itertools.product(*lists):
        found.append(_value(node.elt, {**names, **dict(zip(targets, values))}))
        if len(found) > MOST_ENTRIES:
            raise _NotLiteral(node)
    return found


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

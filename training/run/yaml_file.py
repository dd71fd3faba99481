# SPDX-License-Identifier: Apache-2.0
"""YAML read the way people mean it, and its mistakes told in one sentence.

PyYAML takes 1e-3 for a string, 010 for eight and the last of two equal keys; here 1e-3 is a
number, 08 the name of a sequence, and a key may occur once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
import difflib
from pathlib import Path
import re
import types
from typing import Annotated, Any, get_args, get_origin, TypeVar, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
import yaml

from lidar_kd.errors import ConfigError

Model = TypeVar('Model', bound=BaseModel)
MOST_BYTES = 256 << 10  # a configuration has some thousand
MOST_VALUES = 100_000  # with every alias written out
MOST_DEPTH = 50
# what PyYAML lets through where a value is none of its type: a date of month 99, odd base 64
_ODD_VALUES = (ValueError, TypeError, AttributeError, ArithmeticError, LookupError)
_PATTERNS = {
    'bool': r'true|false|True|False',
    'null': r'~|null|',
    'int': r'[-+]?(?:0|[1-9][0-9]*)',
    'float': r'[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf',
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(str(key.value) for key, _ in node.value)
        for key, count in counts.items():
            if count > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' occurs twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


for _tag, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(
        f'tag:yaml.org,2002:{_tag}', re.compile(f'^(?:{_pattern})$'), None
    )


def parse_yaml(text: str, where: str) -> Any:
    """What a text says; ConfigError where that is not YAML, or more than any configuration is."""
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
        _count_values(value, {}, 0)
        return value
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        line = f' line {mark.line + 1}' if mark else ''
        problem = getattr(error, 'problem', None) or 'not YAML'
        raise ConfigError(f'{where}{line}: {problem}; correct the file.') from None
    except RecursionError:
        raise ConfigError(f'{where}: is nested too deeply; correct the file.') from None
    except _ODD_VALUES as error:
        raise ConfigError(
            f'{where}: a value cannot be read ({error}); correct the file.'
        ) from None


def _count_values(value: Any, known: dict[int, int], depth: int) -> int:
    """With aliases written out, though each is looked at once; a circle is endlessly deep."""
    if depth > MOST_DEPTH:
        raise RecursionError
    if not isinstance(value, dict | list) or id(value) in known:
        return known.get(id(value), 1)
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    known[id(value)] = 1 + sum(_count_values(part, known, depth + 1) for part in parts)
    if known[id(value)] > MOST_VALUES:
        raise ValueError(f'more than {MOST_VALUES:,} values')
    return known[id(value)]


def read_text(path: Path) -> str:
    """A configuration's text; told in one sentence where it is none."""
    try:
        with path.open('rb') as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(
                f'{path}: has more than {MOST_BYTES:,} bytes, which no configuration has; '
                'check the path.'
            )
        return content.decode('utf-8')
    except OSError as error:
        raise ConfigError(
            f'{path}: cannot be read ({error.strerror}); check --cfg and teacher.config.'
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path}: is no UTF-8 text ({error.reason}); save it as such.') from None


def read_settings(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a file, with `a.b=value` changes applied."""
    settings = parse_yaml(read_text(path), path.name) or {}
    if not isinstance(settings, dict):
        raise ConfigError(f'{path.name}: holds no settings; write `key: value` lines.')
    for change in changes:
        _apply(settings, change)
    return settings


def check_settings(settings: Mapping[str, Any], model: type[Model], where: str) -> Model:
    """The typed configuration, or one sentence about the first mistake."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        # an unknown key explains what is missing elsewhere
        errors = sorted(error.errors(), key=lambda each: each['type'] != 'extra_forbidden')
        raise ConfigError(f'{where}: {_sentence(errors[0], model)}') from None


def _apply(settings: dict[str, Any], change: str) -> None:
    place, equals, value = change.partition('=')
    *sections, key = place.strip().split('.')
    if not equals or not key:
        raise ConfigError(f"--set {change}: write it as --set section.key=value, 'optim.lr=5e-4'.")
    for section in sections:
        inner = settings.get(section)
        if not isinstance(inner, dict):  # `srkd: paper` keeps its preset
            settings[section] = {'preset': inner} if inner == 'paper' else {}
        settings = settings[section]
    settings[key] = parse_yaml(value, f'--set {place}')


def _sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    *sections, key = error['loc'] or ('',)
    place = '.'.join(map(str, error['loc']))
    if error['type'] == 'extra_forbidden':
        known = _keys(model, sections)
        close = difflib.get_close_matches(str(key), known, 1, 0.5)
        hint = f"Did you mean '{close[0]}'?" if close else f'Known are: {", ".join(known)}.'
        where = '.'.join(map(str, sections))
        return f"{where}{': ' * bool(where)}unknown key '{key}'. {hint}"
    if error['type'] == 'missing':
        return f'{place}: missing; add it.'
    if error['type'] == 'union_tag_not_found':
        return f'{place}: {error["ctx"]["discriminator"]} is missing; add it.'
    message = error['msg'].removeprefix('Value error, ').removesuffix('.')
    got = _short(error['input'])
    return f'{place}{": " * bool(place)}{message[:1].lower()}{message[1:]}{got}.'


def _short(value: Any) -> str:
    """The value itself; of a whole section the message has said what is wrong in it."""
    if isinstance(value, dict):
        return ''
    text = repr(value)
    return f' (got {text if len(text) <= 60 else text[:57] + "..."})'


def _keys(model: type[BaseModel], sections: Sequence[int | str]) -> list[str]:
    """The keys of the section that an error lies in."""
    models = [model]
    for section in sections:
        deeper = [m.model_fields[str(section)].annotation for m in models
                  if str(section) in m.model_fields]  # fmt: skip
        if deeper:
            models = [found for annotation in deeper for found in _models_in(annotation)]
    return sorted({key for each in models for key in each.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple, dict):
        return [found for part in get_args(annotation) for found in _models_in(part)]
    return []

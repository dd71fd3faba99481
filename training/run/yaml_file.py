# SPDX-License-Identifier: Apache-2.0
"""YAML read the way people mean it, and its mistakes told in one sentence.

PyYAML takes 1e-3 for a string, 010 for eight and the last of two equal keys; here 1e-3 is a
number, 08 the name of a sequence, and a key may occur once.
"""

from __future__ import annotations

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
_PATTERNS = {
    'bool': r'true|false|True|False',
    'null': r'~|null|',
    'int': r'[-+]?(?:0|[1-9][0-9]*)',
    'float': r'[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf',
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' occurs twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


for _tag, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(
        f'tag:yaml.org,2002:{_tag}', re.compile(f'^(?:{_pattern})$'), None
    )


def parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        line = f' line {mark.line + 1}' if mark else ''
        problem = getattr(error, 'problem', None) or 'not YAML'
        raise ConfigError(f'{where}{line}: {problem}; correct the file.') from None


def read_settings(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a file, with `a.b=value` changes applied."""
    try:
        text = path.read_text(encoding='utf-8')
    except OSError as error:
        raise ConfigError(
            f'{path}: cannot be read ({error.strerror}); check --cfg and teacher.config.'
        ) from None
    settings = parse_yaml(text, path.name) or {}
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

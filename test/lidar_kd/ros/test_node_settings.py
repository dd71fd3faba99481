# SPDX-License-Identifier: Apache-2.0
"""The table of parameters, the YAML that explains it, and what each value must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lidar_kd.errors import ConfigError
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.ros.settings import Filter, filter_parameters, NodeSettings, parameters

YAML = Path(__file__).resolve().parents[3] / 'config' / 'node' / 'segment.yaml'


def defaults(**changes: Any) -> dict[str, Any]:
    names = changes.get('filter_names', ['obstacles', 'ground', 'static'])
    both = [*parameters(), *filter_parameters(names)]
    return {**{each.name: each.default for each in both}, **changes}


def flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(
            flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def test_the_yaml_lists_every_parameter_with_its_default() -> None:
    written = flatten(yaml.safe_load(YAML.read_text())['/**']['ros__parameters'])
    assert written == defaults()
    assert {name: type(value) for name, value in written.items()} == {
        name: type(value) for name, value in defaults().items()
    }


def test_the_yaml_explains_every_parameter() -> None:
    lines = YAML.read_text().splitlines()
    bare = [
        line
        for before, line in zip(lines, lines[1:])
        if ':' in line and not line.strip().startswith('#') and not before.strip().startswith('#')
    ]
    # what remains are sections, and the other filters, which are like the first
    assert [line.strip().partition(':')[0] for line in bare] == [
        'ros__parameters', 'crop', 'filters', 'obstacles', 'ground', 'classes', 'min_probability',
        'static', 'min_probability', 'objects',
    ]  # fmt: skip


def test_every_parameter_is_described_in_a_sentence() -> None:
    for each in [*parameters(), *filter_parameters(['obstacles'])]:
        assert each.description.endswith('.'), each.name


def test_settings_hold_the_values_and_the_filters() -> None:
    values = defaults(
        filter_names=['people'],
        device='cpu',
        **{'filters.people.classes': ['person'], 'filters.people.min_probability': 0.5},
    )
    settings = NodeSettings.from_values(values)
    assert settings.device == 'cpu'
    assert settings.filters == (Filter(name='people', classes=('person',), min_probability=0.5),)


@pytest.mark.parametrize(
    ('name', 'value', 'says'),
    [
        ('precision', 'int8', 'use one of auto, float32'),
        ('max_age_s', -1.0, r'outside 0\.\.3600'),
        ('max_silence_ms', 0.0, r'outside 1\.\.'),
        ('filters.ground.min_probability', 1.5, r'outside 0\.\.1'),
        ('filters.ground.classes', [''], 'is empty; name classes'),
        ('filter_names', ['ground', 'ground'], 'distinct words'),
        ('filter_names', ['segmented'], 'cannot name a topic'),
        ('filter_names', ['my filter'], 'cannot name a topic'),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_a_remedy(
    name: str, value: Any, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refusal:
        NodeSettings.from_values(defaults(**{name: value}))
    assert name in str(refusal.value)


def test_no_filter_at_all_is_possible() -> None:
    assert NodeSettings.from_values(defaults(filter_names=[''])).filters == ()


def test_a_filter_takes_classes_groups_and_points_without_an_answer() -> None:
    wanted = Filter(name='a', classes=('vulnerable', 'car', 'unlabelled'), min_probability=0)
    kept = np.flatnonzero(wanted.keeps(SEMANTICKITTI)).tolist()
    # car is 0; vulnerable are person 5, bicyclist 6 and motorcyclist 7
    assert kept == [0, 5, 6, 7, IGNORE]


def test_a_filter_of_unknown_classes_lists_the_known_ones() -> None:
    wanted = Filter(name='a', classes=('cars',), min_probability=0)
    with pytest.raises(ConfigError, match=r"filters\.a\.classes: 'cars' is no class.*ground.*car"):
        wanted.keeps(SEMANTICKITTI)


@pytest.mark.parametrize(
    ('name', 'allowed'),
    [
        ('model', {'unconfigured'}),
        ('reliability', {'unconfigured', 'inactive'}),
        ('max_age_s', {'unconfigured', 'inactive', 'active'}),
    ],
)
def test_what_needs_a_reload_changes_only_before_it(name: str, allowed: set[str]) -> None:
    parameter = next(each for each in parameters() if each.name == name)
    for state in ('unconfigured', 'inactive', 'active'):
        if state in allowed:
            parameter.check_change(state)
        else:
            with pytest.raises(ConfigError, match=f'{name} needs .* deactivate'):
                parameter.check_change(state)

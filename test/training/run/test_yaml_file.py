# SPDX-License-Identifier: Apache-2.0
"""Configurations are read as people mean them, and a mistake is one sentence."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt
import pytest

from lidar_kd.errors import ConfigError
from training.run.yaml_file import check_settings, parse_yaml, read_settings


class Optim(BaseModel):
    model_config = ConfigDict(extra='forbid')
    epochs: PositiveInt = 1
    lr: float = 0.1


class Whole(BaseModel):
    model_config = ConfigDict(extra='forbid')
    name: str
    optim: Optim = Optim()


def write(folder: Path, text: str) -> Path:
    path = folder / 'run.yaml'
    path.write_text(text)
    return path


def message(path: Path, *changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_settings(read_settings(path, changes), Whole, path.name)
    return str(caught.value)


def test_numbers_in_scientific_notation_are_numbers() -> None:
    assert parse_yaml('[1e-3, 5.e2, -2E+1, .5]', '') == [0.001, 500.0, -20.0, 0.5]


def test_sequences_keep_their_leading_zeros() -> None:
    assert parse_yaml('[00, 07, 08, 10]', '') == ['00', '07', '08', 10]


def test_only_true_and_false_are_booleans() -> None:
    assert parse_yaml('[true, False, no, on]', '') == [True, False, 'no', 'on']


def test_a_key_may_occur_once(tmp_path: Path) -> None:
    text = message(write(tmp_path, 'name: a\nname: b\n'))
    assert text == "run.yaml line 1: the key 'name' occurs twice; correct the file."


def test_an_unknown_key_suggests_the_nearest_one(tmp_path: Path) -> None:
    text = message(write(tmp_path, 'name: a\noptim: {epoch: 3}\n'))
    assert text == "run.yaml: optim: unknown key 'epoch'. Did you mean 'epochs'?"


def test_an_unknown_key_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    assert 'Known are: name, optim.' in message(write(tmp_path, 'name: a\nxyz: 1\n'))


def test_a_missing_key_and_a_wrong_type_and_a_wrong_range_name_their_place(tmp_path: Path) -> None:
    assert message(write(tmp_path, 'optim: {}\n')) == 'run.yaml: name: missing; add it.'
    assert 'optim.epochs: input should be a valid integer' in message(
        write(tmp_path, 'name: a\noptim: {epochs: many}\n')
    )
    assert 'optim.epochs: input should be greater than 0 (got 0).' in message(
        write(tmp_path, 'name: a\noptim: {epochs: 0}\n')
    )


def test_a_change_reaches_into_a_section_and_makes_it_if_needed(tmp_path: Path) -> None:
    path = write(tmp_path, 'name: a\n')
    settings = read_settings(path, ['optim.lr=5e-4', 'optim.epochs=2'])
    assert check_settings(settings, Whole, '').optim == Optim(epochs=2, lr=5e-4)


def test_a_change_without_a_value_tells_how_to_write_it(tmp_path: Path) -> None:
    assert '--set section.key=value' in message(write(tmp_path, 'name: a\n'), 'optim.lr')


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    text = message(tmp_path / 'none.yaml')
    assert 'none.yaml: cannot be read (No such file or directory)' in text

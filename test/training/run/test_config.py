# SPDX-License-Identifier: Apache-2.0
"""Configurations: all that come with the package load, and mistakes are one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lidar_kd.bundle import ModelSpec
from lidar_kd.errors import ConfigError
from lidar_kd.labels import NUSCENES, SEMANTICKITTI
from lidar_kd.models import build_model
from training.run.config import Config, describe_changes, load_config

ROOT = Path(__file__).resolve().parents[3]
OTHERS = {'segment.yaml'}  # of the node
CONFIGS = sorted(path for path in (ROOT / 'config').rglob('*.yaml') if path.name not in OTHERS)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / 'config').as_posix()


def test_there_are_configurations() -> None:
    assert {'baseline.yaml', 'teachers/ptv3_3m.yaml', 'srkd.yaml'} <= {
        name_of(path) for path in CONFIGS
    }


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_every_configuration_loads_and_describes_a_network_that_can_be_built(path: Path) -> None:
    config = load_config(path)
    table = NUSCENES if config.data.kind == 'nuscenes' else SEMANTICKITTI
    model = build_model(config.model.name, classes=table.num_classes, **config.model.settings)
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    ModelSpec(name=config.model.name, settings=config.model.settings)  # as the bundle keeps it
    assert config.method == () or config.teacher is not None


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_a_teacher_that_a_configuration_names_fits_its_student(path: Path) -> None:
    config = load_config(path)
    if config.teacher is None or config.teacher.config is None:
        return
    theirs = load_config(config.teacher.config)
    assert theirs.data.kind == config.data.kind
    assert theirs.data.intensity_scale == config.data.intensity_scale
    assert theirs.name != config.name
    if config.data.kind == 'streets':  # one simulation serves both; a teacher has all the labels
        whole = {'labelled': None, 'unlabelled': 0}
        assert theirs.data.streets == config.data.streets.model_copy(update=whole)


def test_runs_of_two_configurations_never_share_a_folder() -> None:
    names = [load_config(path).name for path in CONFIGS]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_what_a_run_writes_of_its_configuration_is_the_same_configuration(
    path: Path, tmp_path: Path
) -> None:
    config = load_config(path)
    written = yaml.safe_dump(config.model_dump(mode='json', by_alias=True), sort_keys=False)
    (tmp_path / 'config.yaml').write_text(written)
    assert describe_changes(config, yaml.safe_load(written)) == []
    assert load_config(tmp_path / 'config.yaml') == config


def test_a_gain_that_was_measured_since_makes_no_other_run() -> None:
    before = Config(name='x')
    since = Config(name='x', known_gain='three seeds: two points')
    assert describe_changes(since, before.model_dump(mode='json', by_alias=True)) == []


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('optim: {epoch: 3}', "optim: unknown key 'epoch'. Did you mean 'epochs'?"),
        ('rounds: 3', "unknown key 'rounds'. Known are: "),
        ('modle: {}', "unknown key 'modle'. Did you mean 'model'?"),
        ('data: {augment: {polar_mix: 1}}', "data.augment: unknown key 'polar_mix'"),
        ('methods: {srkd: {croos: 1}}', "methods.srkd: unknown key 'croos'. Did you mean 'cross'"),
        ('data: {streets: {sensor: hdl32}}', "sensor: unknown 'hdl32'. Choose one of hdl64, "),
        ('data: {streets: {quarter: moon}}', "quarter: unknown 'moon'. Choose one of mixed, "),
        ('data: {kind: kitti, root: x}', "kind: unknown 'kitti'. Choose one of streets, seman"),
        ('data: {kind: semantickitti}', 'the folder of the semantickitti data set is missing'),
        ('data: {unlabelled: [{}]}', 'unlabelled: root: the folder of a data set is missing'),
        ('model: {name: minknet}', "name: unknown 'minknet'. Choose one of minkunet, "),
        ('model: {grid: {kind: cube}}', "'cartesian', 'cylinder'"),
        ('model: {grid: {kind: cartesian, voxel_m: -1}}', 'greater than 0 (got -1)'),
        ('model: {grid: {voxel_m: 1}}', "model.grid: 'kind' is missing; add it."),
        ('{teacher: {bundle: x}, method: [srdk]}', "method: unknown 'srdk'. Choose one of srkd"),
        ('method: [srkd]', 'teacher: missing, but srkd needs one'),
        ('teacher: {}', 'name a bundle, or a config that trains one, or set shared'),
        (
            'teacher: {bundle: a, config: b}',
            'teacher: bundle and config are set; keep one and set the other to null.',
        ),
        ('teachers: {pvkd: {}}', 'teachers.pvkd: name a bundle, or a config that trains one.'),
        ('teachers: {pkvd: {bundle: a}}', "teachers: unknown 'pkvd'. Choose one of srkd, pvkd"),
        ('optim: {lr: 0}', 'optim.lr: input should be greater than 0 (got 0).'),
        ('optim: {lr: .inf}', 'optim.lr: input should be a finite number'),
        ('optim: {name: adam}', "optim.name: input should be 'adamw' or 'sgd' (got 'adam')."),
        ('optim: {steps: 1.5}', 'optim.steps: input should be a valid integer'),
        ('optim: {ema: 1}', 'optim.ema: input should be less than 1'),
        ('data: {augment: {drop: 1}}', 'data.augment.drop: input should be less than 1'),
        ('methods: {srkd: {output: -1}}', 'methods.srkd.output: not a weight: write a number'),
        ('methods: {srkd: {output: true}}', 'methods.srkd.output: not a weight'),
        ('methods: {srkd: {output: {auto: 0}}}', 'methods.srkd.output: not a weight'),
        ('methods: {srkd: {output: {autos: 1}}}', 'methods.srkd.output: not a weight'),
        ('{method: [srkd, srkd], teacher: {bundle: a}}', 'method: srkd + srkd names one twice'),
        ('{method: [srkd], teacher: {bundle: a}, data: {fusion: true}}', 'set it to false'),
        ('log_every: 0', 'log_every: input should be greater than 0'),
        ('name: ""', "name: '' cannot be a folder in runs/"),
        ('name: ../x', "name: '../x' cannot be a folder in runs/"),
        ('seed: 99999999999999999999', 'seed: input should be less than'),
        ('threads: 99999999999', 'threads: input should be less than'),
        ('model: {settings: {classes: 5}}', 'settings.classes: the label table of the data says'),
        ('model: {settings: {in_channels: 5}}', 'settings.in_channels: points have 4 columns'),
        (
            '{method: [m2skd], teacher: {shared: true}, data: {streets: {unlabelled: 3}}}',
            'teacher.shared: the student cannot explain scans without labels to itself',
        ),
        (
            '{method: [srkd], teacher: {bundle: a, cache: true}, data: {augment: {drop: 0.1}}}',
            'teacher.cache: its answers are kept for the points that a scan has',
        ),
        (
            '{method: [srkd], teacher: {bundle: a, pseudo_labels: 0.5}, '
            'data: {augment: {paste: 1}, streets: {unlabelled: 3}}}',
            'teacher.pseudo_labels: they are for scans without labels',
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place_and_remedy(
    text: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    sentence = str(caught.value)
    assert sentence.startswith('mine.yaml: ')
    assert expected in sentence
    assert '\n' not in sentence


def make(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_run_is_named_after_its_file_unless_it_names_itself(tmp_path: Path) -> None:
    assert load_config(make(tmp_path / 'mine.yaml', '')).name == 'mine'
    assert load_config(make(tmp_path / 'mine.yaml', 'name: other')).name == 'other'


def test_a_change_on_the_command_line_wins(tmp_path: Path) -> None:
    path = make(tmp_path / 'mine.yaml', 'optim: {lr: 1e-3, epochs: 3}')
    config = load_config(path, ['optim.lr=5e-4', 'data.train=[00, 07, 08]', 'method=[]'])
    assert (config.optim.lr, config.optim.epochs) == (5e-4, 3)
    assert config.data.train == ('00', '07', '08')
    with pytest.raises(ConfigError, match="optim: unknown key 'rate'"):
        load_config(path, ['optim.rate=1'])


def test_the_configuration_of_a_teacher_lies_beside_that_of_its_student(tmp_path: Path) -> None:
    text = 'teacher: {config: big.yaml}\nmethod: [srkd]'
    config = load_config(make(tmp_path / 'mine.yaml', text))
    assert config.teacher is not None
    assert config.teacher.config == tmp_path / 'big.yaml'


def test_changes_name_every_key_that_differs(tmp_path: Path) -> None:
    one = load_config(make(tmp_path / 'a.yaml', 'name: a\noptim: {lr: 1e-3}'))
    other: Config = load_config(make(tmp_path / 'b.yaml', 'name: a\ndata: {workers: 4}'))
    assert describe_changes(other, one.model_dump(mode='json', by_alias=True)) == [
        'data.workers 1 -> 4',
        'optim.lr 0.001 -> 0.002',
    ]

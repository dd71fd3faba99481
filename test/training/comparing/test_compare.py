# SPDX-License-Identifier: Apache-2.0
"""The same student with and without each method: gains by seed, and a command that resumes."""

from __future__ import annotations

from collections.abc import Mapping
import json
import math
import os
from pathlib import Path
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import IO

import pytest
from small_run import make_street, save_teacher, settings_on, write_config
from started_command import start_command

from lidar_kd.errors import ConfigError
from training import compare
from training.comparing import parts, side_by_side
from training.comparing.figures import Comparison, Cost, Outcome, TeacherFigures
from training.comparing.plan import plan_runs
from training.comparing.plot import draw_runs
from training.comparing.tables import make_tables
from training.run.config import load_config

SRKD = Path(__file__).resolve().parents[3] / 'config' / 'srkd.yaml'
STUDENT = Cost(name='student', parameters=1, gmacs=2.0, latency_ms=10.0)
TEACHER = Cost(name='teacher', parameters=8, gmacs=16.0, latency_ms=40.0)


def outcome(miou: float, hard: float = 0.1, step_ms: float = 100.0) -> Outcome:
    iou = {'car': miou, 'person': None}
    return Outcome(miou=miou, hard_miou=hard, iou=iou, step_ms=step_ms, peak_gb=1.0)


TAUGHT = TeacherFigures(cost=TEACHER, outcome=outcome(0.6))


def comparison(**changes: object) -> Comparison:
    arms = {
        'alone': [outcome(0.50), outcome(0.52), outcome(0.51)],
        'srkd': [
            outcome(0.53, step_ms=120),
            outcome(0.53, step_ms=130),
            outcome(0.55, step_ms=110),
        ],
    }
    whole = {'title': 'x', 'arms': arms, 'student': STUDENT, **changes}
    return Comparison(**whole)  # type: ignore[arg-type]


def test_the_gain_is_the_mean_over_seeds_with_its_standard_error() -> None:
    # 3, 1 and 4 points: mean 8/3, variance (1/9 + 25/9 + 16/9) / 2 = 7/3, error sqrt(7/9)
    gain = comparison().gain('srkd')
    assert gain.mean == pytest.approx(0.08 / 3)
    assert gain.error == pytest.approx(0.01 * math.sqrt(7 / 9))


def test_methods_are_compared_with_one_another_seed_by_seed() -> None:
    arms = {
        'alone': [outcome(0.50), outcome(0.52), outcome(0.51)],
        'srkd': [outcome(0.53), outcome(0.53), outcome(0.55)],
        'pvkd': [outcome(0.54), outcome(0.56), outcome(0.57)],
    }
    both = comparison(arms=arms)
    # 1, 3 and 2 points: mean 2, variance 1, error sqrt(1/3)
    title, columns, rows = make_tables(both)[3]
    assert 'less that of the column' in title
    assert columns == ('', 'srkd', 'pvkd')
    assert rows == [('srkd', '', '-2.00 +- 0.58'), ('pvkd', '+2.00 +- 0.58', '')]
    assert both.figures()['pvkd_over_srkd'] == pytest.approx(2.0)
    assert both.figures()['pvkd_over_srkd_se'] == pytest.approx(math.sqrt(1 / 3))


def test_one_seed_has_no_standard_error() -> None:
    one = comparison(arms={'alone': [outcome(0.5)], 'srkd': [outcome(0.6)]})
    assert math.isnan(one.gain('srkd').error)
    assert one.figures()['srkd_gain_se'] is None
    assert make_tables(one)[1][2] == [('srkd', '+10.00', '-', '-', '-')]


def test_scans_without_any_hard_class_have_a_dash_there() -> None:
    arms = {arm: [outcome(0.5, math.nan), outcome(0.6, math.nan)] for arm in ('alone', 'srkd')}
    without = comparison(arms=arms)
    assert without.figures()['srkd_hard_gain'] is None
    scores, gains, hard, *_ = make_tables(without)
    assert scores[2][1][1:5] == ('55.00', '7.07', '-', '-')
    assert gains[2][0][1:4] == ('+0.00', '0.00', '+0.00 to +0.00')
    assert hard[2][0][1:] == ('-', '-', '-', '-')


def test_standard_deviations_and_standard_errors_have_columns_of_their_own() -> None:
    scores, gains, *_ = make_tables(comparison())
    # 50, 52 and 51: deviation 1; gains of 3, 1 and 4: error 0.88, t interval 2.67 -+ 3.79
    assert scores[1][1:3] == ('mIoU %', 'deviation')
    assert scores[2][0][1:3] == ('51.00', '1.00')
    assert gains[1][1:4] == ('gain', 'standard error', '95 % by seeds (t)')
    assert gains[2] == [('srkd', '+2.67', '0.88', '-1.13 to +6.46', '-')]
    assert not [
        cell for table in (scores, gains) for row in table[2] for cell in row if '+-' in cell
    ]


def test_figures_have_the_names_that_others_rely_on() -> None:
    figures = comparison(teachers={'teacher': TAUGHT}).figures()
    assert figures['baseline_miou'] == pytest.approx(51.0)
    assert figures['srkd_miou'] == pytest.approx(161 / 3)
    assert figures['srkd_hard_gain'] == pytest.approx(0.0)
    assert figures['teacher_miou'] == pytest.approx(60.0)
    assert figures['macs_share'] == pytest.approx(2 / 16)
    assert figures['speedup'] == pytest.approx(4.0)
    assert figures['srkd_step_ratio'] == pytest.approx(1.2)


def test_every_teacher_has_its_row() -> None:
    taught = {'teacher': TAUGHT, 'pvkd': TeacherFigures(cost=STUDENT, outcome=outcome(0.4))}
    figures = comparison(teachers=taught).figures()
    assert figures['pvkd_teacher_miou'] == pytest.approx(40.0)
    assert (figures['macs_share'], figures['pvkd_macs_share']) == (2 / 16, 1.0)
    tables = make_tables(comparison(teachers=taught))
    (_, _, scores), _, _, (_, columns, classes), (_, _, costs) = tables
    assert [row[0] for row in scores][2:] == ['teacher', "pvkd's teacher"]
    assert columns[-2:] == ('teacher', "pvkd's teacher")
    assert classes[0][-2:] == ('60.00', '40.00')
    assert [row[0] for row in costs] == ['teacher', 'student', 'student']


def test_a_teacher_that_is_shown_the_past_is_scored_without_it_too() -> None:
    taught = TeacherFigures(cost=TEACHER, outcome=outcome(0.5), shown_the_past=outcome(0.6, 0.3))
    both = comparison(teachers={'teacher': taught})
    rows = {row[0]: (row[1], row[3]) for row in make_tables(both)[0][2]}
    assert rows['teacher'] == ('50.00', '10.00')
    assert rows['teacher, shown the past'] == ('60.00', '30.00')
    assert both.figures()['teacher_miou'] == pytest.approx(50)
    assert both.figures()['teacher_fused_miou'] == pytest.approx(60)


def test_a_class_that_is_nowhere_has_a_dash() -> None:
    title, columns, rows = make_tables(comparison(teachers={'teacher': TAUGHT}))[3]
    assert columns == ('class', 'alone', 'srkd', 'teacher')
    assert rows[1] == ('person', '-', '-', '-')
    assert rows[0] == ('car', '51.00', '53.67', '60.00')


class Forked:
    """A subprocess.Popen that has torch from the start, which takes the usual one 4 s."""

    def __init__(
        self, words: list[str], *, env: Mapping[str, str], stderr: IO[str], **_: object
    ) -> None:
        assert words[0] == sys.executable
        screen = Path(os.devnull), Path(f'/proc/{os.getpid()}/fd/{stderr.fileno()}')
        self._process = start_command(words[1:], screen, env=env)
        self.wait, self.terminate = self._process.join, self._process.terminate

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode


@pytest.fixture(scope='module')
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp('teacher') / 'teacher.safetensors')


@pytest.fixture
def command(
    teacher: Path, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Two seeds of a student that takes two steps; nothing is drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, 'draw_runs', lambda path, comparison: None)
    asked = {'bundle': str(teacher)}
    settings = settings_on(
        street, teacher=asked, method=['srkd'], optim__steps=2, validate__steps=2
    )
    config = write_config(tmp_path / 'small.yaml', settings)
    return ['compare.py', '--cfg', str(config), '--seeds', '2', '--json', 'figures.json']


def figures_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setattr(sys, 'argv', words)
    assert compare.main() == 0
    figures: dict[str, float] = json.loads(Path('figures.json').read_text())
    return figures


def test_the_command_runs_every_arm_and_finds_finished_ones(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command, '--methods', 'srkd+pvkd', '--out', 'all']
    with monkeypatch.context() as patch:
        patch.setattr(compare, 'draw_runs', draw_runs)
        figures = figures_of(words, monkeypatch)
    assert {'baseline_miou', 'srkd+pvkd_gain_se', 'speedup'} <= figures.keys()
    runs = sorted(path.parent.name for path in Path('all').glob('*/report.json'))
    assert runs == ['srkd+pvkd-0', 'srkd+pvkd-1']
    assert len(list(Path().glob('alone-*/alone-[01]/report.json'))) == 2
    assert {'comparison.png', 'comparison.md', 'comparison.txt'} <= {
        path.name for path in Path('all').iterdir()
    }
    capsys.readouterr()
    again = figures_of(words, monkeypatch)
    assert capsys.readouterr().out.count('this run is finished') == 4
    assert again['srkd+pvkd_gain'] == figures['srkd+pvkd_gain']


def test_runs_shorter_than_a_line_of_the_log_are_compared_too(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ['--seeds', '1', '--set', 'log_every=20']  # of two steps each
    assert figures_of([*command, *words], monkeypatch)['srkd_step_ratio'] > 0


def test_runs_side_by_side_give_what_they_give_one_after_the_other(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command += ['--seeds', '1']
    alone = figures_of([*command, '--out', 'one/all'], monkeypatch)
    capsys.readouterr()
    forked = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(side_by_side, 'subprocess', forked)
    beside = figures_of([*command, '--out', 'beside/all', '--jobs', '2'], monkeypatch)
    said = capsys.readouterr().out
    assert said.count('started, its log: ') == 2
    assert '2 of 2 runs in ' in said
    for name in ('baseline_miou', 'srkd_gain', 'srkd_hard_gain'):
        assert beside[name] == pytest.approx(alone[name], abs=1e-6)


def test_a_run_that_fails_beside_others_ends_them_with_its_sentence(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = next(make_street(Path('street')).rglob('*.label'))
    labels.write_bytes(b'123')
    own = ['--set', f'data.root={Path("street").resolve()}']
    monkeypatch.setattr(sys, 'argv', [*command, *own, '--jobs', '2'])
    assert compare.main() == 2
    sentence = rf'error: (alone|srkd)-0: {labels.resolve()}: 3 bytes'
    assert re.match(sentence, capsys.readouterr().err)


def test_the_student_alone_is_trained_once_whatever_it_is_compared_with(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command += ['--seeds', '1']
    first = figures_of([*command, '--methods', 'pvkd', '--out', 'first'], monkeypatch)
    capsys.readouterr()
    words = ['--methods', 'm2skd', '--out', 'second', '--set', 'methods.m2skd.logit=1']
    second = figures_of([*command, *words], monkeypatch)
    assert capsys.readouterr().out.count('this run is finished') == 1
    assert second['baseline_miou'] == first['baseline_miou']
    # nor for what a teacher alone looks at; another student is another matter
    more = ['data.unlabelled=[{kind: bags, root: BAGS}]']
    same = plan_runs(load_config(Path('small.yaml'), more), ['alone'], 1, Path('third'))
    assert same[0].folder.path.exists()
    other = plan_runs(
        load_config(Path('small.yaml'), ['optim.lr=1e-3']), ['alone'], 1, Path('third')
    )
    assert not other[0].folder.path.exists()


def test_epochs_that_would_be_longer_with_scans_that_the_student_alone_does_not_read_are_refused(
    command: list[str],
) -> None:
    more = ['data.unlabelled=[{kind: bags, root: BAGS}]', 'optim.steps=null']
    with pytest.raises(ConfigError, match='optim.steps: missing; in as many epochs'):
        plan_runs(load_config(Path('small.yaml'), more), ['alone', 'srkd'], 1, Path('x'))


@pytest.mark.parametrize('rule', ['validate.keep=best', 'validate.patience=3'])
def test_a_choice_among_scores_that_the_student_alone_has_more_of_is_refused(
    rule: str, command: list[str]
) -> None:
    more = ['data.unlabelled=[{kind: bags, root: BAGS}]', 'validate.keep=last', rule]
    uneven = load_config(Path('small.yaml'), [*more, 'validate.steps=null'])
    with pytest.raises(ConfigError, match='validate.steps: missing; by epochs the student alone'):
        plan_runs(uneven, ['alone', 'srkd'], 1, Path('x'))
    even = load_config(Path('small.yaml'), more)
    assert len(plan_runs(even, ['alone', 'srkd'], 1, Path('x'))) == 2


def test_an_arm_that_is_named_twice_is_run_and_counted_once() -> None:
    runs = plan_runs(load_config(SRKD), ['alone', 'alone', 'srkd', 'srkd'], 2, Path('x'))
    assert [run.name for run in runs] == ['alone-0', 'srkd-0', 'alone-1', 'srkd-1']


def test_every_arm_is_compared_with_the_teacher_it_learnt_from(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_teacher(Path('other.safetensors'), name='minkunet', settings={'width': 0.125})
    own = ['--set', f'teachers.pvkd.bundle={other.resolve()}', '--seeds', '1']
    words = [*command, *own, '--methods', 'pvkd']
    asked: list[object] = []

    def read(_: object, __: object, theirs: object) -> Outcome:
        asked.append(theirs)
        return outcome(0.5)

    monkeypatch.setattr(parts, 'answer_all', lambda bundle, *_: Path(bundle).name)
    monkeypatch.setattr(parts, 'read_run', read)
    monkeypatch.setattr(parts, 'score_teacher', lambda *_: outcome(0.5))
    figures_of([*words, '--methods', 'srkd', 'pvkd'], monkeypatch)
    # the student alone is set beside the main teacher
    assert asked == ['teacher.safetensors', 'teacher.safetensors', 'other.safetensors']


def test_another_simulator_is_another_student_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for digest in ('before', 'after'):
        monkeypatch.setattr('training.comparing.plan.digest_streets', lambda _, d=digest: d)
        (one,) = plan_runs(load_config(SRKD), ['alone'], 1, Path('x'))
        folders.append(one.folder.path.parent.name)
    assert folders[0] != folders[1]


@pytest.mark.parametrize(('option', 'value'), [('--jobs', '0'), ('--seeds', '-1')])
def test_numbers_below_one_are_refused(
    option: str,
    value: str,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, 'argv', [*command, option, value])
    assert compare.main() == 2
    assert f'{option} {value}: at least 1' in capsys.readouterr().err


def test_a_method_that_nobody_knows_is_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', [*command, '--methods', 'srkd+magic'])
    assert compare.main() == 2
    error = capsys.readouterr().err
    assert "srkd+magic: method: unknown 'magic'. Choose one of srkd, pvkd, m2skd." in error


def test_what_pseudo_labels_alone_are_worth_can_be_told_from_what_a_method_adds(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ['--seeds', '1', '--methods', 'pseudo_labels', '--set', 'teacher.pseudo_labels=0.5']
    assert 'pseudo_labels_gain' in figures_of([*command, *words], monkeypatch)
    (run,) = Path('runs').rglob('pseudo_labels-0/config.yaml')
    assert load_config(run).teacher is not None
    assert load_config(run).method == ()


def test_pseudo_labels_that_no_teacher_gives_are_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', [*command, '--methods', 'pseudo_labels'])
    assert compare.main() == 2
    assert 'set it, as to 0.5' in capsys.readouterr().err

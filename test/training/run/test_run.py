# SPDX-License-Identifier: Apache-2.0
"""What stops a run and what does not, and what it leaves behind in either case."""

from __future__ import annotations

from collections.abc import Callable
import errno
import itertools
import os
from pathlib import Path
import signal
import sys
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from small_run import fit, make_config, prepare, ROOT, settings_on, write_config
from started_command import run_command
import torch

from lidar_kd.bundle import read_spec
from lidar_kd.cli.console import Console, EXIT_BAD_INPUT
from lidar_kd.errors import ConfigError, DataError, write_atomically
from training.run.checkpoint import load_checkpoint, save_checkpoint
from training.run.folder import RunFolder
from training.run.interrupt import Interruption
from training.run.loop import Run
from training.run.perform import distill, main, train
from training.run.validation import Validation
from training.scores.metrics import Confusion, Score

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures('in_own_folder')


@pytest.fixture
def command(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """train.py with a configuration and options; its exit code."""

    def run(*options: str, **changes: Any) -> int:
        path = write_config(tmp_path / 'small.yaml', settings_on(street, **changes))
        monkeypatch.setattr('sys.argv', ['train.py', '--cfg', str(path), *options])
        return main('', train, path)

    return run


def sentence_of(capsys: Capture) -> str:
    """The one line that a command ends with on stderr."""
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    (line,) = (line for line in error.splitlines() if line.startswith('error: '))
    return line


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, deed: Callable[[Run], None]) -> None:
    """Something happens to a run when it has done so many steps."""
    learn = Run._learn

    def learn_later(run: Run, batch: Any) -> None:
        if run.step == step:
            deed(run)
        learn(run, batch)

    monkeypatch.setattr(Run, '_learn', learn_later)


def spoil_weights(run: Run) -> None:
    run.distillation.student.get_parameter('head.weight').data[0, 0] = float('nan')


def spoil_gradients(run: Run) -> None:
    weight = run.distillation.student.get_parameter('head.weight')
    weight.register_hook(lambda gradient: gradient * float('nan'))


def test_a_loss_that_is_not_finite_stops_the_run_with_step_scans_and_last_terms(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        before_step(patch, 5, spoil_weights)
        assert command() == EXIT_BAD_INPUT
    line = sentence_of(capsys)
    assert 'step 5: the loss is not finite (voxel_ce nan' in line
    assert 'on 00/00000' in line
    rows = RunFolder(tmp_path / 'runs' / 'small').history()
    last = next(row['voxel_ce'] for row in rows if row['step'] == 5 and 'loss' in row)
    assert 'the last finite terms were loss' in line
    assert f'voxel_ce {last:.3g}' in line
    state = load_checkpoint(tmp_path / 'runs' / 'small' / 'last.pt')
    assert state['step'] == 3
    assert all(torch.isfinite(tensor).all() for tensor in state['model'].values())
    assert 'the same command goes on from the last checkpoint' in line
    assert command() == 0


def test_a_gradient_that_is_not_finite_never_reaches_weights_or_checkpoint(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_step(monkeypatch, 4, spoil_gradients)
    config = make_config(tmp_path, settings_on(street, save_every_s=0.0))
    with pytest.raises(DataError, match='step 4: the gradient is not finite'):
        fit(config, tmp_path / 'run')
    state = load_checkpoint(tmp_path / 'run' / 'last.pt')
    assert state['step'] == 4
    assert all(torch.isfinite(tensor).all() for tensor in state['model'].values())


def answers(right: int) -> Confusion:
    """Of 10 points of one class, so many hits: mIoU is right / 10."""
    confusion = Confusion(19)
    given = np.array([8] * right + [9] * (10 - right), np.uint8)
    confusion.add(np.full(10, 8, np.uint8), given, np.zeros(10))
    return confusion


def test_a_run_without_patience_left_stops_and_keeps_the_best(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # validations at steps 3, 6, 9 ...: better, worse, equal to the best (no better): stop at 9
    scores = iter([5, 3, 5, 9, 9])
    monkeypatch.setattr(Validation, 'score_network', lambda *_: answers(next(scores)))
    settings = settings_on(street, optim__steps=30, validate__patience=2)
    config = make_config(tmp_path, settings)
    run = fit(config, tmp_path / 'run')
    assert (run.step, run.validation.best_step, run.validation.best_miou) == (
        9,
        3,
        pytest.approx(0.5),
    )
    assert load_checkpoint(tmp_path / 'run' / 'best.pt')['step'] == 3
    assert fit(config, tmp_path / 'run').step == 9  # it stays stopped


def update_of(street: Path, folder: Path, **optim: Any) -> tuple[float, float]:
    """Length of what the first step of SGD adds to the weights over its rate, and the gradient."""
    changes: dict[str, Any] = {f'optim__{key}': value for key, value in optim.items()}
    settings = settings_on(
        street, **changes, optim__name='sgd', optim__momentum=0.0, optim__lr=1.0,
        optim__weight_decay=0.0, optim__steps=1,
    )  # fmt: skip
    folder.mkdir()
    run = Run(prepare(make_config(folder, settings), folder), Console(quiet=True))
    before = [p.detach().clone() for p in run.distillation.parameters()]
    run.fit()
    changes_of = [p.detach() - q for p, q in zip(run.distillation.parameters(), before)]
    length = float(torch.cat([change.flatten() for change in changes_of]).norm())
    gradient = next(row['gradient'] for row in RunFolder(folder).history() if 'loss' in row)
    return length / 0.04, gradient  # the schedule starts at 0.04 of the rate


def test_the_whole_gradient_is_clipped_and_logged_as_it_was(street: Path, tmp_path: Path) -> None:
    length, gradient = update_of(street, tmp_path / 'clipped', clip_norm=0.5)
    assert gradient > 1
    assert length == pytest.approx(0.5, rel=1e-3)
    free, same = update_of(street, tmp_path / 'free', clip_norm=0)
    assert free == pytest.approx(same, rel=1e-3)
    assert same == pytest.approx(gradient, rel=1e-6)


def test_the_bundle_holds_the_averaged_weights(street: Path, tmp_path: Path) -> None:
    fit(make_config(tmp_path, settings_on(street, optim__ema=0.5)), tmp_path / 'run')
    best, kept = (
        load_checkpoint(tmp_path / 'run/best.pt'),
        load_file(tmp_path / 'run/best.safetensors'),
    )
    averaged = {key: best['ema'][key] for key in kept}
    assert all(torch.equal(averaged[key], tensor) for key, tensor in kept.items())
    assert not torch.equal(best['model']['head.weight'], kept['head.weight'])


def test_rows_written_before_the_first_checkpoint_are_not_there_twice(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, settings_on(street))

    def die(run: Run) -> None:
        raise KeyError('out of the blue')

    with monkeypatch.context() as patch:
        before_step(patch, 2, die)
        with pytest.raises(KeyError):
            fit(config, tmp_path / 'run')
    assert len(RunFolder(tmp_path / 'run').history()) == 2
    fit(config, tmp_path / 'run')
    steps = [row['step'] for row in RunFolder(tmp_path / 'run').history() if 'loss' in row]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_writes_a_page_of_what_it_draws(command: Callable[..., int], tmp_path: Path) -> None:
    assert command('--out', 'run', '--set', 'validate.pictures=1') == 0
    assert 'lidarKd.arrive()</script>' in (tmp_path / 'run' / 'scans.html').read_text()


def test_another_configuration_is_refused_and_fresh_starts_over(
    command: Callable[..., int], capsys: Capture, tmp_path: Path
) -> None:
    assert command('--out', 'run') == 0
    assert 'mIoU' in capsys.readouterr().out
    files = {path.name for path in (tmp_path / 'run').iterdir()}
    assert files >= {
        *('config.yaml', 'log.txt', 'metrics.jsonl', 'last.pt', 'best.pt', 'best.safetensors'),
        *('report.txt', 'report.json', 'report.md', 'report.csv'),
    }
    before = (tmp_path / 'run' / 'last.pt').read_bytes()
    assert command('--out', 'run', '--set', 'optim.lr=5e-4') == EXIT_BAD_INPUT
    assert 'holds a run with another configuration (optim.lr 0.002 -> 0.0005)' in sentence_of(
        capsys
    )
    assert command('--out', 'run') == 0
    assert 'this run is finished' in capsys.readouterr().out
    assert (tmp_path / 'run' / 'last.pt').read_bytes() == before
    assert command('--out', 'run', '--fresh', '--set', 'optim.lr=5e-4') == 0
    assert (tmp_path / 'run' / 'last.pt').read_bytes() != before
    assert len(RunFolder(tmp_path / 'run').history()) == 6 + 2


def test_a_run_from_before_a_key_existed_goes_on_with_its_default(
    command: Callable[..., int], tmp_path: Path
) -> None:
    assert command('--out', 'run') == 0
    written = tmp_path / 'run' / 'config.yaml'
    lines = written.read_text().splitlines(keepends=True)
    written.write_text(''.join(line for line in lines if '  keep: best' not in line))
    assert len(written.read_text().splitlines()) == len(lines) - 1
    assert command('--out', 'run') == 0


def test_the_last_weights_are_kept_where_no_score_may_choose(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = itertools.count(1)
    monkeypatch.setattr(Confusion, 'occurring', lambda *_: Score(0.9 / next(falling), '', 19))
    steps = {}
    for keep in ('best', 'last'):
        fit(make_config(tmp_path, settings_on(street, validate__keep=keep)), tmp_path / keep)
        steps[keep] = read_spec(tmp_path / keep / 'best.safetensors').provenance['step']
    assert steps == {'best': '3 of 6', 'last': '6 of 6'}


def test_students_on_other_scans_can_be_scored_at_the_same_steps(
    street: Path, tmp_path: Path
) -> None:
    """An epoch of a student with more scans has more steps."""
    run = fit(make_config(tmp_path, settings_on(street, validate__steps=4)), tmp_path / 'run')
    assert [row['step'] for row in run.folder.history() if 'miou' in row] == [4, 6]


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """torch.save writes half of its file and fails, from its n-th use on."""
    save, uses = torch.save, iter(range(1000))

    def save_half(state: Any, path: Path) -> None:
        save(state, path)
        if next(uses) >= after:
            path.write_bytes(path.read_bytes()[:999])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(torch, 'save', save_half)


def test_a_full_disk_costs_one_sentence_and_no_checkpoint(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, after=3)  # at the 4th: last at steps 1 and 2, best and last at step 3
        assert command('--set', 'save_every_s=0') == EXIT_BAD_INPUT
    line = sentence_of(capsys)
    assert 'last.pt: cannot be written (No space left on device)' in line
    assert 'goes on from the last one' in line
    folder = tmp_path / 'runs' / 'small'
    assert [path for path in folder.iterdir() if path.name.endswith('.tmp')] == []
    assert load_checkpoint(folder / 'last.pt')['step'] == 2
    assert load_checkpoint(folder / 'best.pt')['step'] == 3
    assert command('--set', 'save_every_s=0') == 0
    assert load_checkpoint(folder / 'last.pt')['step'] == 6


_FILE_LIMIT = """
import resource, sys
sys.path[0] = {root!r}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from pathlib import Path
import torch
from lidar_kd.errors import DataError
from training.run.checkpoint import save_checkpoint
try:
    save_checkpoint(Path('last.pt'), {{'model': torch.zeros(100_000)}})
except DataError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='limits files as Linux does')
def test_a_write_that_torch_itself_fails_to_do_is_one_sentence_too(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / 'last.pt', {'step': 7})
    code = _FILE_LIMIT.format(root=str(ROOT))
    done = run_command(['-c', code], cwd=tmp_path)
    assert done.stderr.startswith('last.pt: cannot be written (')
    assert done.stderr.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['last.pt']
    assert load_checkpoint(tmp_path / 'last.pt') == {'step': 7}


def test_an_output_that_cannot_be_a_folder_is_one_sentence(
    command: Callable[..., int], capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / 'file').write_text('mine')
    assert command('--out', 'file') == EXIT_BAD_INPUT
    assert 'file' in sentence_of(capsys)
    assert command('--out', 'file/below') == EXIT_BAD_INPUT
    assert 'file' in sentence_of(capsys)
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_read_only_output_folder_is_one_sentence(
    command: Callable[..., int], capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / 'locked').mkdir(mode=0o555)
    assert command('--out', 'locked/run') == EXIT_BAD_INPUT
    assert 'locked' in sentence_of(capsys)


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({'data__validation': ['00']}, '4 scans are in both splits, first'),
        ({'data__validation': ['00', '08']}, '4 scans are in both splits, first'),
        ({'data__train': ['03']}, 'no sequence 03; here are 00, 08'),
        ({'data__validation': []}, 'no sequence was asked for; here are 00, 08'),
        ({'data__root': 'nowhere'}, 'nowhere: no such folder'),
        ({'teacher__bundle': 'x', 'method': ['skrd']}, "method: unknown 'skrd'"),
    ],
)
def test_splits_that_make_no_sense_are_refused_before_anything_is_trained(
    changes: dict[str, Any], expected: str, command: Callable[..., int], capsys: Capture
) -> None:
    assert command(**changes) == EXIT_BAD_INPUT
    assert expected in sentence_of(capsys)


def test_train_refuses_methods_and_distill_wants_some(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Else a student would silently be trained alone, in the folder of the distilled one."""
    teacher = {'bundle': 'teacher.safetensors'}
    path = write_config(tmp_path / 'small.yaml', settings_on(street, teacher=teacher))
    monkeypatch.setattr('sys.argv', ['train.py', '--cfg', str(path), '--set', 'method=[srkd]'])
    assert main('', train, path) == EXIT_BAD_INPUT
    assert 'srkd needs a teacher to train with; start training/distill.py' in sentence_of(capsys)
    monkeypatch.setattr('sys.argv', ['distill.py', '--cfg', str(path)])
    assert main('', distill, path) == EXIT_BAD_INPUT
    assert 'nothing to distill' in sentence_of(capsys)
    assert not (tmp_path / 'runs').exists()


def test_a_broken_checkpoint_is_one_sentence(street: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, settings_on(street))
    prepare(config, tmp_path / 'run')
    for content in (b'', b'PK\x03\x04 half of it', b'no checkpoint'):
        (tmp_path / 'run' / 'last.pt').write_bytes(content)
        with pytest.raises(DataError, match='no complete checkpoint of a run'):
            fit(config, tmp_path / 'run')


def test_a_run_that_is_resumed_with_other_scans_is_refused(street: Path, tmp_path: Path) -> None:
    fit(make_config(tmp_path, settings_on(street)), tmp_path / 'run')
    other = make_config(tmp_path, settings_on(street, optim__batch_size=1))
    with pytest.raises(ConfigError, match='optim.batch_size 2 -> 1'):
        fit(other, tmp_path / 'run')


def test_a_signal_is_noted_and_a_second_one_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert not interruption.wanted
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.wanted
        assert signal.getsignal(signal.SIGTERM) is before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / 'a.txt'
    place.write_text('old')

    def write_half() -> None:
        with write_atomically(place) as temporary:
            temporary.write_text('new')
            raise RuntimeError('half way')

    with pytest.raises(RuntimeError, match='half way'):
        write_half()
    assert [path.read_text() for path in tmp_path.iterdir()] == ['old']

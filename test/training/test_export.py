# SPDX-License-Identifier: Apache-2.0
"""A checkpoint becomes a bundle that labels as the checkpoint's network does, or one sentence."""

from __future__ import annotations

from pathlib import Path
import shlex

import numpy as np
import pytest
from tiny import tiny_spec
import torch

from lidar_kd.bundle import load_bundle
from lidar_kd.models import build_model
from lidar_kd.segmenter import Segmenter
from training import export
from training.export import main
from training.run.checkpoint import save_checkpoint, State


def make_state(*, seed: int = 0, average: bool = False) -> State:
    states = []
    for offset in (0, 1):
        torch.manual_seed(seed + offset)
        states.append(build_model('minkunet', classes=19, width=0.125).state_dict())
    spec = tiny_spec().model_dump_json()
    return {'spec': spec, 'model': states[0], 'ema': states[1] if average else None, 'step': 7}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """best.pt keeps a moving average, last.pt none; and a scan to compare on."""
    save_checkpoint(tmp_path / 'best.pt', make_state(average=True))
    save_checkpoint(tmp_path / 'last.pt', make_state(seed=10))
    points = np.random.default_rng(0).uniform(-20, 20, (200, 4)).astype('<f4')
    points.tofile(tmp_path / 'scan.bin')
    return tmp_path


def written(run: Path, *words: str) -> dict[str, torch.Tensor]:
    out = run / 'new' / 'student.safetensors'
    assert main([str(run), '--scan', str(run / 'scan.bin'), '--out', str(out), *words]) == 0
    return load_bundle(out).model.state_dict()


@pytest.mark.parametrize(
    ('words', 'file', 'key'),
    [
        ([], 'best.pt', 'ema'),
        (['--weights', 'ema'], 'best.pt', 'ema'),
        (['--weights', 'trained'], 'best.pt', 'model'),
        (['--checkpoint', 'last'], 'last.pt', 'model'),
    ],
)
def test_the_chosen_weights_are_written(run: Path, words: list[str], file: str, key: str) -> None:
    expected = torch.load(run / file, weights_only=True)[key]
    found = written(run, *words)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_last_line_runs_the_bundle_as_a_shell_reads_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / 'my new one' / 'student.safetensors'
    assert main([str(run), '--scan', str(run / 'scan.bin'), '--out', str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    words = ['ros2', 'launch', 'lidar_kd', 'segment.launch.py', f'model:={path.resolve()}']
    assert shlex.split(last) == words


def test_half_halves_the_file_and_its_labels_are_compared(run: Path) -> None:
    out, half = run / 'exported_best.safetensors', run / 'half.safetensors'
    (run / 'best.safetensors').write_bytes(b'what the report of the run is about')
    assert main([str(run / 'best.pt')]) == 0  # beside the checkpoint, compared on a made-up street
    assert (run / 'best.safetensors').read_bytes() == b'what the report of the run is about'
    scan = ['--scan', str(run / 'scan.bin')]
    assert main([str(run / 'best.pt'), '--half', '--out', str(half), *scan]) == 0
    assert half.stat().st_size < 0.55 * out.stat().st_size
    points = np.fromfile(run / 'scan.bin', '<f4').reshape(-1, 4)
    labels = [Segmenter(path).segment(points).labels for path in (out, half)]
    assert (labels[0] == labels[1]).mean() > 0.98


def test_a_bundle_that_labels_otherwise_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, 'compare_labels', lambda *arguments: 0.9)
    assert main([str(run), '--scan', str(run / 'scan.bin')]) == 2
    assert 'labels 90.00% of the points as' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['{run}/nowhere'], 'no such checkpoint (here: none)'),
        (['{run}', '--checkpoint', 'last', '--weights', 'ema'], 'keeps no moving average'),
        (['{run}/scan.bin'], 'no complete checkpoint'),
        (['{run}/other.pt'], 'no complete checkpoint'),
        (['{run}/wrong.pt'], 'no checkpoint of this lidar_kd (RuntimeError'),
        (['{run}', '--out', '{run}/scan.bin/x.safetensors'], 'cannot be written'),
        (['{run}', '--scan', '{run}/nowhere.bin'], 'nowhere.bin'),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    run: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(run / 'other.pt', {'weights': torch.zeros(1)})
    wrong = make_state()
    wrong['model'].popitem()
    save_checkpoint(run / 'wrong.pt', wrong)
    assert main([word.format(run=run) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert sentence in error
    assert error.count('\n') == 1
    assert not list(run.glob('*.safetensors'))


def test_an_average_lies_between_the_run_and_what_it_began_from(run: Path) -> None:
    before = run / 'before.safetensors'
    assert main([str(run / 'last.pt'), '--out', str(before), '--scan', str(run / 'scan.bin')]) == 0
    found = written(run, '--average', str(before), '--share', '0.75')
    tuned = torch.load(run / 'best.pt', weights_only=True)['ema']
    first = torch.load(run / 'last.pt', weights_only=True)['model']
    for name, tensor in found.items():
        expected = tuned[name]
        if tensor.is_floating_point():
            expected = 0.75 * tuned[name] + 0.25 * first[name]
        assert torch.allclose(tensor, expected), name
    facts = load_bundle(run / 'new' / 'student.safetensors').spec.provenance
    assert facts['averaged'] == '0.75 of this run, 0.25 of before'


def test_networks_that_differ_are_not_averaged(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = make_state()
    spec = tiny_spec()
    grid = spec.grid.model_copy(update={'voxel_m': 0.7})
    save_checkpoint(
        run / 'other.pt',
        state | {'spec': spec.model_copy(update={'grid': grid}).model_dump_json()},
    )
    other = run / 'other.safetensors'
    assert main([str(run / 'other.pt'), '--out', str(other), '--scan', str(run / 'scan.bin')]) == 0
    assert main([str(run), '--average', str(other), '--out', str(run / 'x.safetensors')]) == 2
    assert 'its grid is not that of the run; give a bundle' in ' '.join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize('share', ['0', '1', 'half', 'nan'])
def test_a_share_lies_between_the_two(run: Path, share: str) -> None:
    with pytest.raises(SystemExit):
        main([str(run), '--average', 'x', '--share', share])

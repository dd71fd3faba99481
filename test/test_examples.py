# SPDX-License-Identifier: Apache-2.0
"""Every example runs as it stands, and is short."""

from __future__ import annotations

from pathlib import Path
from shutil import copy

import numpy as np
from started_command import run_command
from tiny import write_bundle

EXAMPLES = Path(__file__).resolve().parents[1] / 'examples'


def run(name: str, *words: str, cwd: Path | None = None) -> str:
    ended = run_command([EXAMPLES / name, *words], cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_scan_file_is_labelled_point_by_point(tmp_path: Path) -> None:
    scan = tmp_path / 'scan.bin'
    np.random.default_rng(0).uniform(-20, 20, (500, 4)).astype('<f4').tofile(scan)
    shown = run('01_label_a_file.py', str(scan)).splitlines()
    assert sum(int(line.split()[-2]) for line in shown) == 500  # every point has one class


def test_a_cloud_comes_back_with_label_and_colour() -> None:
    shown = run('02_label_a_cloud.py')
    assert shown == "1000 points with ['x', 'y', 'z', 'intensity', 'label', 'rgb']\n"


def test_examples_are_under_40_lines() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob('*.py')}
    assert lines
    assert {name: count for name, count in lines.items() if count >= 40} == {}


def test_a_network_of_ones_own_answers_for_every_point() -> None:
    assert run('05_add_a_network.py') == 'logits of 1000 points\n'


def changes(street: Path, folder: Path) -> list[str]:
    """Two steps of a tiny student with a tiny teacher."""
    values = (
        'name=mine',
        'device=cpu',
        'threads=2',
        'data.kind=semantickitti',
        f'data.root={street}',
        'data.train=[00]',
        'data.validation=[08]',
        'model={name: minkunet, settings: {width: 0.125}, grid: {kind: cartesian, voxel_m: 1.0}}',
        f'teacher={{bundle: {write_bundle(folder / "teacher.safetensors")}}}',
        'optim={steps: 2, batch_size: 2}',
        'validate={steps: 2, pictures: 0}',
    )
    return [word for value in values for word in ('--set', value)]


def test_a_student_is_distilled_on_a_folder_of_scans(street: Path, tmp_path: Path) -> None:
    scans = tmp_path / 'scans'
    scans.mkdir()
    copy(street / 'sequences/00/velodyne/000000.bin', scans)
    run('03_distil_on_a_folder.py', str(scans), *changes(street, tmp_path), cwd=tmp_path)
    assert (tmp_path / 'runs/mine/best.safetensors').is_file()
    config = (tmp_path / 'runs/mine/config.yaml').read_text()
    assert str(scans) in config  # they were among what it learnt from


def test_distilling_on_no_folder_says_what_is_missing(tmp_path: Path) -> None:
    ended = run_command([EXAMPLES / '03_distil_on_a_folder.py', 'nowhere'], cwd=tmp_path)
    assert ended.returncode == 2
    assert 'name a folder of scans' in ended.stderr


def test_a_term_of_ones_own_is_part_of_the_loss(street: Path, tmp_path: Path) -> None:
    words = [*changes(street, tmp_path), '--set', 'log_every=1']
    run('04_add_a_term.py', *words, cwd=tmp_path)
    assert 'pvkd.certainty' in (tmp_path / 'runs/mine/metrics.jsonl').read_text()

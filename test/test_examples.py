# SPDX-License-Identifier: Apache-2.0
"""Every example runs as it stands, and is short."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

import numpy as np

EXAMPLES = Path(__file__).resolve().parents[1] / 'examples'


def run(name: str, *words: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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


def test_distilling_on_a_folder_explains_itself(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / '03_distil_on_a_folder.py'), str(tmp_path), '--help']
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert 'SCANS is a folder' in shown.stdout

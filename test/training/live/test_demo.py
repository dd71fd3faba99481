# SPDX-License-Identifier: Apache-2.0
"""`make demo` on a short drive: it ends by itself, tells what happened, leaves nothing running."""

from __future__ import annotations

from pathlib import Path
import re

from PIL import Image
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')
pytest.importorskip('open3d', reason='the simulator needs open3d')

import numpy as np
from ros_partner import leave_domain
from started_command import run_command

from training.views.drive import LEFT

DEMO = str(Path(__file__).resolve().parents[3] / 'training' / 'demo.py')
SCANS = 8


def processes_of(folder: Path) -> list[str]:
    """Command lines of what runs on files below `folder`."""
    lines = []
    for entry in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            lines.append(entry.read_bytes().replace(b'\0', b' ').decode(errors='replace'))
        except OSError:  # it has just ended
            continue
    return [line for line in lines if str(folder) in line]


@pytest.mark.slow
def test_the_demo_drives_reports_and_ends(small_bundle: str, tmp_path: Path) -> None:
    leave_domain()
    command = [DEMO, '--bundle', small_bundle]
    command += ['--scans', str(SCANS), '--out', str(tmp_path)]
    done = run_command(command, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [re.split(r'\s{2,}', line.strip()) for line in done.stdout.splitlines()]
    told = {row[0]: row[1] for row in rows if len(row) == 2}
    assert told['scans sent'] == told['received by the node'] == str(SCANS)
    assert 1 <= int(told['labelled']) <= SCANS
    assert 'mIoU' in told['against the truth']
    assert re.match(r'\d+\.\d % \(.*car \d+', told['panoptic quality of its objects'])
    assert 'segment.launch.py' in done.stdout
    for name in ('strip.png', 'scan.png'):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 1000
    assert (tmp_path / 'drive.html').read_text().count('lidarKd.arrive()</script>') > 0
    with Image.open(tmp_path / 'strip.png') as picture:
        assert picture.size == (5 * 480, 2 * 480)  # labels and boxes above, what is left below
        below = np.asarray(picture)[480:]
        assert (below == LEFT).all(2).any()
    assert processes_of(tmp_path) == []


def test_a_bundle_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    command = [DEMO, '--bundle', 'none.safetensors', '--out', str(tmp_path / 'out')]
    done = run_command(command, timeout=60)
    assert (done.returncode, done.stderr) == (
        2,
        'error: none.safetensors: no such bundle; check the path.\n',
    )


@pytest.mark.slow
def test_the_demo_takes_a_folder_of_ones_own(small_bundle: str, tmp_path: Path) -> None:
    leave_domain()
    rng = np.random.default_rng(0)
    (tmp_path / 'own').mkdir()
    for number in range(6):
        scan = rng.uniform(-10, 10, (4000, 4)).astype('<f4')
        scan[:, 2:] = (-1.5, 0.3)
        scan.tofile(tmp_path / 'own' / f'{number}.bin')
    command = [DEMO, '--bundle', small_bundle]
    command += ['--own', str(tmp_path / 'own'), '--scans', '4', '--out', str(tmp_path / 'out')]
    done = run_command(command, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [re.split(r'\s{2,}', line.strip()) for line in done.stdout.splitlines()]
    told = {row[0]: row[1] for row in rows if len(row) == 2}
    assert told['scans sent'] == '4'  # of 6 in the folder
    assert 1 <= int(told['labelled scans that came back here']) <= int(told['labelled']) <= 4
    assert 'mounting' in told
    assert 'against the truth' not in told  # nobody knows it
    with Image.open(tmp_path / 'out' / 'scan.png') as picture:
        assert picture.width == 1600  # one panel and its legend: 4 to 3
    assert processes_of(tmp_path) == []

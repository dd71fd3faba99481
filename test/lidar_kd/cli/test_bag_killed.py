# SPDX-License-Identifier: Apache-2.0
"""Killed at any moment and started again, lidar-kd-bag loses no cloud and writes none twice."""

from __future__ import annotations

import json
from pathlib import Path
import shutil
import signal

import pytest
from tiny import write_bundle

pytest.importorskip('rosbags.rosbag2', reason='needs rosbags')
from recorded_drive import CLOUDS, read_cloud, read_contents, TYPES, write_drive
from started_command import run_command

from lidar_kd.cli.bag import main
from lidar_kd.ros.replay.source import open_source

KILLING = Path(__file__).resolve().parents[2] / 'killing.py'
KILLED = -signal.SIGKILL
CLOUDS_OF_DRIVE = 60


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp('bundle') / 'tiny.safetensors')


@pytest.fixture(scope='module', params=['sqlite3', 'mcap'])
def drive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('drives')
    return write_drive(folder / request.param, CLOUDS_OF_DRIVE, request.param)


def run_killed(seed: int, most: int, world: int, words: list[str]) -> list[list[int]]:
    ended = run_command([KILLING, str(seed), str(most), str(world), *words])
    assert ended.returncode == 0, ended.stderr
    rounds: list[list[int]] = json.loads(ended.stderr.splitlines()[-1])
    return rounds


def words_of(drive: Path, out: Path, bundle: Path, *more: str) -> list[str]:
    return [str(drive), str(out), '--bundle', str(bundle), '--precision', 'float32', *more]


@pytest.mark.slow
def test_a_bag_killed_at_random_points_is_the_one_that_was_not(
    drive: Path, bundle: Path, tmp_path: Path
) -> None:
    assert main(words_of(drive, tmp_path / 'whole', bundle)) == 0
    whole, out = read_contents(tmp_path / 'whole'), tmp_path / 'killed'
    rounds = run_killed(1, 20, 1, words_of(drive, out, bundle))
    # two touches for each answer kept, one to read it: 180 at least; three runs do 120 at most
    assert len(rounds) >= 4
    assert [ends for ends in rounds[:-1] if ends != [KILLED]] == []
    killed, recorded = read_contents(out), read_contents(drive)
    assert killed == whole
    assert {t: len(m) for t, m in killed.items()} == {t: len(m) for t, m in recorded.items()}
    assert {t: len(m) for t, m in killed.items()} == {
        topic: 1 if topic == '/tf_static' else CLOUDS_OF_DRIVE for topic in TYPES
    }
    stamps = [read_cloud(content).header.stamp for _, content in killed[CLOUDS]]
    assert stamps == [read_cloud(content).header.stamp for _, content in recorded[CLOUDS]]
    assert len({(each.sec, each.nanosec) for each in stamps}) == CLOUDS_OF_DRIVE
    assert [path.name for path in tmp_path.iterdir() if 'killed' in path.name] == ['killed']
    assert len(open_source(str(out))) == CLOUDS_OF_DRIVE


@pytest.mark.slow
def test_processes_that_share_a_bag_may_be_killed_too(bundle: Path, tmp_path: Path) -> None:
    drive, out = write_drive(tmp_path / 'drive', 30, 'mcap'), tmp_path / 'killed'
    more = ('--outputs', 'labeled', 'segmented')
    assert main(words_of(drive, tmp_path / 'whole', bundle, *more)) == 0
    rounds = run_killed(2, 10, 3, words_of(drive, out, bundle, *more))
    assert {end for ends in rounds for end in ends} == {0, KILLED}
    assert read_contents(out) == read_contents(tmp_path / 'whole')
    assert main(words_of(drive, out, bundle, *more)) == 0
    assert not out.with_name('killed.parts').exists()


def test_the_process_that_finishes_last_writes_the_bag(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    drive, out = write_drive(tmp_path / 'drive', 9), tmp_path / 'out'
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, is_last in ((1, False), (0, True)):
        monkeypatch.setenv('RANK', str(rank))
        assert main(words_of(drive, out, bundle)) == 0
        assert out.exists() == is_last
    shown = capsys.readouterr().out
    assert '0 of 5 clouds were labelled before' in shown  # numbers 0, 2, 4, 6, 8
    monkeypatch.delenv('WORLD_SIZE')
    assert main(words_of(drive, tmp_path / 'alone', bundle)) == 0
    assert read_contents(out) == read_contents(tmp_path / 'alone')


def test_lost_or_damaged_answers_are_found_anew(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive, out = write_drive(tmp_path / 'drive', 9), tmp_path / 'out'
    assert main(words_of(drive, tmp_path / 'whole', bundle)) == 0
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    assert main(words_of(drive, out, bundle)) == 0
    kept = sorted((tmp_path / 'out.parts' / 'answers' / 'front.points').iterdir())
    assert [path.name for path in kept] == ['000000', '000002', '000004', '000006', '000008']
    content = bytearray(kept[0].read_bytes())
    content[-1] ^= 1  # another class
    kept[0].write_bytes(content)
    shutil.copy(kept[2], kept[1])  # an answer about another cloud
    kept[3].write_bytes(b'')
    monkeypatch.setenv('RANK', '1')
    assert main(words_of(drive, out, bundle)) == 0
    assert read_contents(out) == read_contents(tmp_path / 'whole')


@pytest.mark.slow
def test_scans_killed_at_random_points_are_those_that_were_not(
    bundle: Path, tmp_path: Path
) -> None:
    drive, out = write_drive(tmp_path / 'drive', 20), tmp_path / 'killed'
    more = ('--to', 'semantickitti')
    assert main(words_of(drive, tmp_path / 'whole', bundle, *more)) == 0
    rounds = run_killed(3, 20, 1, words_of(drive, out, bundle, *more))
    assert len(rounds) >= 3  # 20 scans of four touches each; two runs do 60 at most
    assert read_files(out) == read_files(tmp_path / 'whole')


def read_files(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob('*') if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

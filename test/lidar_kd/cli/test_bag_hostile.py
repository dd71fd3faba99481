# SPDX-License-Identifier: Apache-2.0
"""Damaged bags and full disks cost lidar-kd-bag one sentence, and never leave half a bag."""

from __future__ import annotations

from pathlib import Path
import random
import shutil

import pytest
from tiny import write_bundle

pytest.importorskip('rosbags.rosbag2', reason='needs rosbags')
from recorded_drive import CLOUDS, read_contents, STORE, TYPES, write_drive
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from started_command import run_command
import yaml

from lidar_kd.cli.bag import main

FEW = 8


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp('bundle') / 'tiny.safetensors')


def words_of(bag: Path, out: Path, bundle: Path, *more: str) -> list[str]:
    return [str(bag), str(out), '--bundle', str(bundle), '--precision', 'float32', *more]


def spoil(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place, size = rng.randrange(len(content)), rng.choice([8, 512, 4096])
    kind = rng.choice(['cut', 'zeros', 'noise', 'bit'])
    if kind == 'cut':
        del content[place:]
    elif kind == 'bit':
        content[place] ^= 1 << rng.randrange(8)
    else:
        there = content[place : place + size]
        new = bytes(len(there)) if kind == 'zeros' else rng.randbytes(len(there))
        content[place : place + size] = new
    path.write_bytes(content)


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_whatever_is_damaged_the_bag_is_whole_or_there_is_one_sentence(
    storage: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, ends = random.Random(storage), []
    whole = write_drive(tmp_path / 'drive', FEW, storage)
    for number in range(30):
        bag, out = tmp_path / f'bag{number}', tmp_path / f'out{number}'
        shutil.copytree(whole, bag)
        spoil(rng.choice(sorted(bag.iterdir())), rng)
        ends.append(main(words_of(bag, out, bundle)))
        errors = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
        if out.exists():
            assert errors == []
            assert sum(map(len, read_contents(out).values())) == 1 + 5 * FEW
        else:
            assert (ends[-1], len(errors)) == (2, 1)
            assert len(errors[0]) < 400
    assert set(ends) == {0, 2}


def test_messages_that_metadata_promises_and_nobody_finds_are_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_drive(tmp_path / 'drive', FEW)
    facts = yaml.safe_load((bag / 'metadata.yaml').read_text())
    inner = facts['rosbag2_bagfile_information']
    topics = {t['topic_metadata']['name']: t for t in inner['topics_with_message_count']}
    inner['message_count'] += 1
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(facts))
    assert main(words_of(bag, tmp_path / 'out', bundle)) == 2
    error = capsys.readouterr().err
    assert f'counts {2 + 5 * FEW} messages, {1 + 5 * FEW} can be read; run ros2 bag' in error
    topics[CLOUDS]['message_count'] += 1
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(facts))
    assert main(words_of(bag, tmp_path / 'out', bundle)) == 2
    error = capsys.readouterr().err
    assert f'1 clouds that its metadata.yaml counts are not there, first number {FEW}' in error
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_a_full_disk_costs_one_sentence_and_the_same_command_goes_on(
    storage: str, bundle: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 100 kB: the answers do not, the bag does."""
    bag, out = write_drive(tmp_path / 'drive', 60, storage), tmp_path / 'out'
    command = ['-m', 'lidar_kd.cli.bag', *words_of(bag, out, bundle)]
    full = run_command(command, cwd=Path(__file__).resolve().parents[3], largest_file=100_000)
    assert full.returncode == 2
    assert full.stderr.startswith(f'error: {out}: cannot be written (')
    assert 'free some space or choose another output folder' in full.stderr
    assert len(full.stderr.splitlines()) == 1
    assert not out.exists()
    assert not (tmp_path / 'out.parts' / 'written').exists()  # its space is given back
    assert main(words_of(bag, out, bundle)) == 0
    assert sum(map(len, read_contents(out).values())) == 1 + 5 * 60


def test_a_folder_that_cannot_be_written_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_drive(tmp_path / 'drive', 2)
    (tmp_path / 'file').write_text('')
    for to in ('bag', 'semantickitti'):
        out = tmp_path / 'file' / 'out'
        assert main(words_of(bag, out, bundle, '--to', to)) == 2
        assert 'cannot be written (Not a directory)' in capsys.readouterr().err


def test_what_is_no_recording_of_clouds_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer(tmp_path / 'words', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection('/word', 'std_msgs/msg/String', typestore=STORE)
    with Writer1(tmp_path / 'old.bag') as old:
        old.add_connection('/points', TYPES[CLOUDS], typestore=STORE)
    (tmp_path / 'empty').mkdir()
    for name, sentence in {
        'words': 'no topic with PointCloud2 (it has /word)',
        'empty': 'a bag needs its metadata.yaml',
        'missing': 'no such bag',
        'old.bag': 'a ROS 1 bag; make it one of ROS 2 first: rosbags-convert --src',
    }.items():
        assert main(words_of(tmp_path / name, tmp_path / 'out', bundle)) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert len(error.splitlines()) == 1

# SPDX-License-Identifier: Apache-2.0
"""Augmented versions on disk: the same bytes however made, and a run that learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_run import fit, make_config, make_street, save_teacher, settings_on

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import NUSCENES, SEMANTICKITTI
from training.augment import main, read_augmentation
from training.data.augment import Augmentation, NO_AUGMENTATION
from training.data.augmented import (
    AugmentedSettings,
    make_version,
    plan_places,
    write_augmented,
    write_scan_files,
)
from training.data.kinds import open_dataset
from training.data.scan import Scan, ScanSet
from training.data.semantickitti import read_label_file

EVERYTHING = Augmentation(jitter_m=0.01, drop=0.3, polarmix=0.7, lasermix=0.5, mix3d=0.3, paste=3)
SETTINGS = AugmentedSettings(augmentation=EVERYTHING, versions=3, seed=5)


@pytest.fixture
def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the cache of objects lies in runs/
    return make_street(tmp_path / 'street')


def to_learn(street: Path) -> ScanSet:
    return open_dataset('semantickitti', street, ['00'])


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(street: Path) -> None:
    scans, folders = to_learn(street), [street.parent / name for name in ('a', 'b', 'c')]
    assert write_augmented(scans, folders[0], SETTINGS) == 12
    write_augmented(scans, folders[1], SETTINGS, workers=3)
    other = AugmentedSettings(augmentation=EVERYTHING, versions=3, seed=6)
    write_augmented(scans, folders[2], other)
    one, two, three = map(bytes_of, folders)
    assert one == two
    assert len(one) == 1 + 2 * 12
    assert all(one[name] != three[name] for name in one)
    clouds = [content for name, content in one.items() if name.endswith('.bin')]
    assert len(set(clouds)) == 12  # every version is another


def test_a_folder_that_was_cut_off_ends_as_one_that_was_not(street: Path) -> None:
    scans, whole, cut = to_learn(street), street.parent / 'whole', street.parent / 'cut'
    write_augmented(scans, whole, SETTINGS)
    few = AugmentedSettings(augmentation=EVERYTHING, versions=2, seed=5)
    write_augmented(scans, cut, few)
    places = plan_places(scans, cut, 2)
    places[3].labels.unlink()  # killed between the two files of a scan
    places[6].points.unlink()
    assert write_augmented(scans, cut, SETTINGS) == 2 + 4
    assert bytes_of(cut) == bytes_of(whole)
    assert write_augmented(scans, cut, SETTINGS) == 0


def test_what_is_read_back_is_what_was_augmented(street: Path) -> None:
    scans, out = to_learn(street), street.parent / 'out'
    settings = AugmentedSettings(augmentation=Augmentation(drop=0.3, mix3d=1), versions=1)
    write_augmented(scans, out, settings)
    back = open_dataset('semantickitti', out)
    assert [frame.name for frame in back.frames] == [f'00/{10**6 + n}' for n in range(4)]
    for index, place in enumerate(plan_places(scans, out, 1)):
        made, read = make_version(scans, place, settings, []), back[index]
        np.testing.assert_array_equal(read.points, made.points)
        np.testing.assert_array_equal(read.labels, made.labels)
        np.testing.assert_array_equal(read.instances, made.instances)
        assert read.pose is None


def test_labels_follow_their_points(street: Path) -> None:
    scans, out = to_learn(street), street.parent / 'out'
    settings = AugmentedSettings(
        augmentation=Augmentation(rotation_deg=0, flip=False, scale=0, drop=0.5), versions=2
    )
    write_augmented(scans, out, settings)
    first = scans[0]
    assert first.instances is not None
    labelled = {
        p.tobytes(): (k, n) for p, k, n in zip(first.points, first.labels, first.instances)
    }
    kept = open_dataset('semantickitti', out)[0]
    assert 0 < len(kept) < len(first)
    assert kept.instances is not None
    found = [labelled[point.tobytes()] for point in kept.points]
    assert found == list(zip(kept.labels, kept.instances))


def test_numbers_beyond_16_bits_are_counted_anew(tmp_path: Path) -> None:
    scan = Scan(
        points=np.zeros((5, 4), np.float32),
        labels=np.array([0, 0, 5, 8, 0], np.uint8),
        instances=np.array([70_000, 3, 70_000, 0, 70_000], np.uint32),
    )
    path = tmp_path / 'a.label'
    write_scan_files(scan, tmp_path / 'a.bin', path)
    raw, numbers = read_label_file(path)
    np.testing.assert_array_equal(SEMANTICKITTI.to_train(raw), scan.labels)
    # by class and number: car 3, car 70000, person 70000
    assert numbers is not None
    assert numbers.tolist() == [2, 1, 3, 0, 2]


def test_a_folder_of_something_else_is_refused(street: Path) -> None:
    scans, out = to_learn(street), street.parent / 'out'
    with pytest.raises(DataError, match='is not empty and was not made by augment.py'):
        write_augmented(scans, street, SETTINGS)
    write_augmented(scans, out, AugmentedSettings(augmentation=NO_AUGMENTATION, versions=1))
    with pytest.raises(DataError, match='made with another seed and another augmentation;'):
        write_augmented(scans, out, SETTINGS)
    both = open_dataset('semantickitti', street)
    with pytest.raises(DataError, match='made with another scans'):
        write_augmented(both, out, AugmentedSettings(augmentation=NO_AUGMENTATION, versions=1))


def test_classes_of_another_table_are_refused(street: Path) -> None:
    scans = to_learn(street)
    object.__setattr__(scans, 'table', NUSCENES)
    with pytest.raises(DataError, match="labels of 'nuscenes' have no place"):
        write_augmented(scans, street.parent / 'out', SETTINGS)


def test_augmentation_on_the_command_line_is_checked() -> None:
    assert read_augmentation('{paste: 2, drop: 1e-1}') == Augmentation(paste=2, drop=0.1)
    with pytest.raises(ConfigError, match="--augment: unknown key 'past'. Did you mean 'paste'"):
        read_augmentation('{past: 2}')
    with pytest.raises(ConfigError, match='write a mapping'):
        read_augmentation('paste')


def test_a_distillation_learns_from_the_folder_with_cached_answers(street: Path) -> None:
    out = street.parent / 'out'
    words = [str(street), str(out), '--sequences', '00', '--versions', '2', '--plain', '08']
    assert main(words) == 0
    teacher = save_teacher(street.parent / 'teacher.safetensors')
    settings = settings_on(
        out,
        method=['pvkd'],
        teacher={'bundle': str(teacher), 'cache': True},
        data__augment={'rotation_deg': 180, 'flip': True},
    )
    run = fit(make_config(street.parent, settings), street.parent / 'run')
    assert run.step == run.total == 6
    answers = list((street.parent / 'runs' / 'cache').glob('*/*.safetensors'))
    assert len(answers) == 8  # 4 scans in 2 versions, each asked once


def test_plain_sequences_never_hide_augmented_ones(street: Path) -> None:
    out = street.parent / 'out'
    words = [str(street), str(out), '--sequences', '00', '--versions', '1', '--plain']
    assert main([*words, '00']) == 2
    assert main([*words, '08']) == 0
    assert main([*words, '08']) == 0  # once more, and nothing to do

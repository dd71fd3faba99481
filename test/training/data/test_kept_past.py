# SPDX-License-Identifier: Apache-2.0
"""M2SKD on augmented scans: what fusion added is kept beside them and goes where they go."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path

import numpy as np
import pytest
from small_run import fit, make_config, make_street, save_teacher, settings_on

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, DataError
from training.augment import main
from training.comparing.runs import answer_all
from training.data.augment import Augmentation, jitter, NO_AUGMENTATION, swap_bands
from training.data.augmented import AugmentedSettings, plan_places, STAMP, write_augmented
from training.data.fusion import build_bank, FusedScans
from training.data.kept_past import has_kept_past, KeptPast
from training.data.kinds import open_dataset
from training.data.scan import Scan, ScanSet
from training.data.sensor_changes import SensorChanges
from training.data.settings import Data
from training.run.sources import fuse_scans

EVERYTHING = Augmentation(jitter_m=0.01, drop=0.3, polarmix=0.7, lasermix=0.5, mix3d=0.3, paste=3)
QUIET = Console(quiet=True)


@pytest.fixture
def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the cache of objects lies in runs/
    return make_street(tmp_path / 'street')


def to_learn(street: Path) -> ScanSet:
    return open_dataset('semantickitti', street, ['00'])


def write(street: Path, augmentation: Augmentation = EVERYTHING, past_scans: int = 2) -> Path:
    settings = AugmentedSettings(augmentation=augmentation, versions=2, past_scans=past_scans)
    write_augmented(to_learn(street), street.parent / 'out', settings)
    return street.parent / 'out'


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*.*') if p.is_file()}


def test_the_student_sees_the_same_bytes_with_the_past_or_without_it(street: Path) -> None:
    out = write(street, past_scans=0)
    before = bytes_of(out)
    write(street, past_scans=2)
    after = bytes_of(out)
    added = after.keys() - before.keys()
    assert all(Path(name).parent.name == 'past' for name in added)
    assert len(added) == 8
    assert {k: v for k, v in after.items() if k in before and k != STAMP} == {
        k: v for k, v in before.items() if k != STAMP
    }
    for path in out.rglob('velodyne/*.bin'):
        path.unlink()  # and where both are written at once
    write(street, past_scans=2)
    assert bytes_of(out) == after


def test_the_past_goes_where_its_scan_goes(street: Path) -> None:
    turned = Augmentation(rotation_deg=0, flip=True, scale=0.2)
    out = write(street, turned)
    scans = to_learn(street)
    fused = FusedScans(scans, build_bank(scans, past_scans=2))
    kept = fuse_scans(
        open_dataset('semantickitti', out, ['00']),
        scans,
        Data(kind='semantickitti', root=out, past_scans=2),
        QUIET,
    )
    assert isinstance(kept, KeptPast)
    assert kept.describe().endswith('with the past of their hard objects as it was kept')
    for index, place in enumerate(plan_places(scans, out, 2)):
        plain, moved = fused[place.row], kept[index]
        assert len(plain) == len(moved)
        np.testing.assert_array_equal(moved.labels, plain.labels)
        if plain.past is None:
            assert moved.past is None  # the first scan of a drive
            continue
        assert plain.past.sum() > 50
        np.testing.assert_array_equal(moved.past, plain.past)
        factors = moved.points[:, :3] / plain.points[:, :3]
        # one matrix for both: each column is a factor of its own, as mirrors and scales are
        np.testing.assert_allclose(factors, np.broadcast_to(factors[0], factors.shape), rtol=1e-3)


def test_noise_and_bands_are_those_of_the_sensors_own_points() -> None:
    points = np.zeros((4, 4), np.float32)
    points[:, 0] = 10
    points[:, 2] = [-1, 1, 9, -9]  # the past is higher and lower than any beam
    past = np.array([False, False, True, True])
    labels = np.array([1, 2, 3, 4], np.uint8)
    scan = Scan(points=points, labels=labels, past=past)
    moved = jitter(scan, 0.01, 0.05, np.random.default_rng(0))
    alone = jitter(scan.take(~past), 0.01, 0.05, np.random.default_rng(0))
    np.testing.assert_array_equal(moved.points[:2], alone.points)
    np.testing.assert_array_equal(moved.points[2:], points[2:])
    # two bands from -1 m to 1 m: what is beyond belongs to the nearest
    other = replace(scan, labels=labels + 10)
    assert swap_bands(scan, other, bands=2).labels.tolist() == [1, 4, 12, 13]


def test_a_teacher_and_a_student_of_m2skd_learn_from_the_folder(street: Path) -> None:
    out = street.parent / 'out'
    words = [str(street), str(out), '--sequences', '00', '--versions', '2', '--plain', '08']
    assert main([*words, '--past-scans', '4']) == 0
    fused = settings_on(out, data__fusion=True, optim__steps=2)
    fit(make_config(street.parent, fused), street.parent / 'teacher')
    bundle = street.parent / 'teacher' / 'best.safetensors'
    settings = settings_on(
        out,
        method=['m2skd'],
        teacher={'bundle': str(bundle), 'cache': True},
        methods__m2skd={'early_feature': 0, 'late_feature': 0, 'logit': 1.0, 'affinity': 1.0},
    )
    run = fit(make_config(street.parent, settings), street.parent / 'run')
    assert run.step == run.total == 6
    rows = (street.parent / 'run' / 'metrics.jsonl').read_text()
    assert 'm2skd.logit' in rows
    assert len(list((street.parent / 'runs' / 'cache').glob('*/*.safetensors'))) == 8


def test_answers_about_the_past_are_not_those_without_it(street: Path) -> None:
    out = write(street)
    scans = open_dataset('semantickitti', out, ['00'])
    bundle = save_teacher(street.parent / 'teacher.safetensors')
    alone, shown = answer_all(bundle, scans), answer_all(bundle, KeptPast(scans))
    assert [len(a) for a in alone] == [len(b) for b in shown] == [len(scans[n]) for n in range(8)]
    assert any((a != b).any() for a, b in zip(alone, shown))


def test_a_past_that_was_fused_otherwise_is_refused(street: Path) -> None:
    out = write(street)
    scans = open_dataset('semantickitti', out, ['00'])
    with pytest.raises(DataError, match=r"fused with .*'past_scans': 2.* set data.past_scans"):
        fuse_scans(scans, scans, Data(kind='semantickitti', root=out), QUIET)
    with pytest.raises(DataError, match='made with another fusion'):
        write(street, past_scans=3)
    with pytest.raises(ConfigError, match='what another sensor would see of the past'):
        write(street, Augmentation(sensor=SensorChanges(far_drop=0.5)))
    assert json.loads((out / STAMP).read_text())['fusion']['past_scans'] == 2


def test_scans_of_two_kinds_are_not_learnt_from_together(street: Path) -> None:
    out = write(street, NO_AUGMENTATION)
    kept, plain = open_dataset('semantickitti', out, ['00']), to_learn(street)
    assert has_kept_past(kept.frames)
    assert not has_kept_past(plain.frames)
    with pytest.raises(DataError, match='have no past/ beside them, and 8 have'):
        has_kept_past([*kept.frames, *plain.frames])


def test_points_that_another_program_augmented_get_no_past(street: Path) -> None:
    out = write(street, past_scans=0)
    changed = sorted(out.rglob('*.bin'))[3]
    changed.write_bytes(changed.read_bytes()[16:])
    with pytest.raises(DataError, match='was augmented by another version of the program'):
        write(street, past_scans=2)


def test_a_damaged_past_is_named(street: Path) -> None:
    scans = KeptPast(open_dataset('semantickitti', write(street), ['00']))
    path = scans.frames[1].past
    assert path is not None
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match='what fusion added cannot be read'):
        scans[1]

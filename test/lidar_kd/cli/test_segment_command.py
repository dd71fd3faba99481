# SPDX-License-Identifier: Apache-2.0
"""The command labels files, continues where it stopped and answers bad input with a sentence."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
import pytest
from small_run import save_teacher
from started_command import run_command
import torch

from lidar_kd.bundle import Bundle, BundleSpec, ModelSpec, save_bundle
from lidar_kd.cli import segment
from lidar_kd.cli.jobs import Rank
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.segmenter import Segmentation
from lidar_kd.voxels import CartesianGrid

ROOT = Path(__file__).resolve().parents[3]
POINTS = np.array([[1, 2, 3, 0.5], [-4, 5, -6, 1], [7, 8, 9, 0]], np.float32)
LABELS = [0, 8, 0]  # what FrontIsCar answers: car, road, car
RAW = [10, 40, 10]


class FrontIsCar:
    """Stands for the network: car in front of the sensor, road behind it."""

    calls: list[int] = []
    brightest: list[float] = []
    device = torch.device('cpu')
    engine = SimpleNamespace(name='toy')
    dtype = torch.float32

    def __init__(self, bundle: Bundle, *, device: str, precision: str, sensor: object) -> None:
        self.calls.clear()
        self.brightest.clear()

    def segment(self, points: NDArray[np.float32]) -> Segmentation:
        self.calls.append(len(points))
        self.brightest.append(float(points[:, 3].max()))
        finite = np.isfinite(points[:, :3]).all(1)
        labels = np.where(points[:, 0] > 0, 0, 8).astype(np.uint8)
        labels[~finite] = IGNORE
        return Segmentation(
            labels=labels,
            probability=np.ones(len(points), np.float32),
            entropy=np.zeros(len(points), np.float32),
            timing={'network': 12.5},
            unseen={'not_finite': int((~finite).sum())},
        )


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bundle') / 'tiny.safetensors'
    torch.manual_seed(0)
    spec = BundleSpec(
        model=ModelSpec(name='minkunet', settings={'width': 0.125}),
        grid=CartesianGrid(voxel_m=0.2),
        labels=SEMANTICKITTI,
    )
    save_bundle(path, build_model('minkunet', width=0.125, classes=19), spec)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scans in the layout of SemanticKITTI; the network is FrontIsCar."""
    monkeypatch.setattr(segment, 'Segmenter', FrontIsCar)
    for name in ('00/velodyne/000000.bin', '00/velodyne/000001.bin', '01/velodyne/000000.bin'):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        POINTS.tofile(tmp_path / 'in' / name)
    return tmp_path / 'in'


def run(bundle: Path, *arguments: object) -> int:
    return segment.main([*map(str, arguments), '--bundle', str(bundle)])


def list_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def refuse(capsys: pytest.CaptureFixture[str], code: int, sentence: str) -> None:
    """Exit code 2 and one line on stderr."""
    errors = capsys.readouterr().err
    assert code == 2
    assert sentence in errors
    assert errors.count('\n') == 1


def test_a_folder_gets_raw_labels_in_its_own_structure(folder: Path, bundle: Path) -> None:
    assert run(bundle, folder, '-o', folder.parent / 'out') == 0
    assert list_files(folder.parent / 'out') == [
        '00/velodyne/000000.label',
        '00/velodyne/000001.label',
        '01/velodyne/000000.label',
    ]
    label = folder.parent / 'out/00/velodyne/000000.label'
    assert np.fromfile(label, '<u4').tolist() == RAW


def count_scans(page: Path) -> int:
    return page.read_text(encoding='utf-8').count('<script>lidarKd.arrive()</script>')


def test_the_page_holds_every_scan_also_those_that_were_done(folder: Path, bundle: Path) -> None:
    page = folder.parent / 'pages' / 'look.html'
    assert run(bundle, folder) == 0
    assert run(bundle, folder, '--html', page) == 0
    assert count_scans(page) == 3
    assert len(FrontIsCar.calls) == 3


def test_one_process_writes_the_page(
    folder: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    refuse(capsys, run(bundle, folder, '--html', folder / 'look.html'), 'without torchrun')


def test_a_bag_is_sent_to_its_own_command(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = tmp_path / 'my drive.mcap'
    bag.touch()
    assert run(bundle, bag) == 2
    said = capsys.readouterr().err
    assert f"label it with lidar-kd-bag '{bag}' OUT" in said


def test_labels_go_beside_the_scans_by_default(folder: Path, bundle: Path) -> None:
    velodyne = folder / '01/velodyne'
    assert run(bundle, velodyne) == 0
    assert run(bundle, folder / '00/velodyne/000001.bin') == 0
    assert list_files(velodyne / 'predictions') == ['000000.label']
    assert list_files(folder / '00/velodyne/predictions') == ['000001.label']


def test_train_ids_are_one_byte_per_point(folder: Path, bundle: Path) -> None:
    assert run(bundle, folder / '00', '-o', folder / 'out', '--format', 'train') == 0
    assert (folder / 'out/velodyne/000000.label').read_bytes() == bytes(LABELS)


@pytest.mark.parametrize('full_scale', [1, 255, 4095])
def test_the_network_gets_the_same_intensity_whatever_it_is_stored_as(
    full_scale: int, folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scan in sorted(folder.rglob('*.bin'))[:2]:  # the first two are brighter than the last
        (POINTS * [1, 1, 1, full_scale]).astype(np.float32).tofile(scan)
    (POINTS * [1, 1, 1, full_scale / 2]).astype(np.float32).tofile(
        folder / '01/velodyne/000000.bin'
    )
    assert run(bundle, folder) == 0
    assert FrontIsCar.brightest == pytest.approx([1, 1, 0.5])
    assert f'0 to {full_scale} as stored' in capsys.readouterr().out
    assert run(bundle, folder / '01', '--intensity-scale', 0.5) == 0  # alone it may look darker
    assert FrontIsCar.brightest == pytest.approx([full_scale / 4])


def test_a_bundle_that_expects_stored_intensities_gets_those(folder: Path, tmp_path: Path) -> None:
    wide = save_teacher(tmp_path / 'wide.safetensors', scale=1 / 255)
    assert run(wide, folder) == 0
    assert FrontIsCar.brightest == pytest.approx([255, 255, 255])  # times its 1/255: 1


def test_unseen_points_are_raw_id_zero_and_counted(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = POINTS.copy()
    points[1, 0] = np.nan
    np.save(folder / 'a.npy', points)
    assert run(bundle, folder / 'a.npy', '-o', folder / 'out') == 0
    assert np.fromfile(folder / 'out/a.label', '<u4').tolist() == [10, 0, 10]
    assert 'points without a label: 1 not finite' in capsys.readouterr().out


def test_pictures_lie_beside_the_labels(folder: Path, bundle: Path) -> None:
    assert run(bundle, folder / '01', '-o', folder / 'out', '--picture') == 0
    assert list_files(folder / 'out') == ['velodyne/000000.label', 'velodyne/000000.png']
    with Image.open(folder / 'out/velodyne/000000.png') as picture:
        assert picture.size == (1600, 1200)


def test_finished_scans_are_skipped_and_said_so(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(bundle, folder, '-o', folder.parent / 'out')
    (folder.parent / 'out/01/velodyne/000000.label').unlink()
    capsys.readouterr()
    assert run(bundle, folder, '-o', folder.parent / 'out') == 0
    assert FrontIsCar.calls == [3]  # the missing one, not the others
    assert '1 scans segmented (3 points), 2 skipped' in capsys.readouterr().out


def test_labels_of_another_size_are_somebody_elses_and_stay(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = folder.parent / 'out/00/velodyne/000000.label'
    truth.parent.mkdir(parents=True)
    truth.write_bytes(b'truth')
    code = run(bundle, folder, '-o', folder.parent / 'out')
    refuse(capsys, code, 'exists and has 5 bytes, not the 12 of the labels of 000000.bin')
    assert truth.read_bytes() == b'truth'
    assert FrontIsCar.calls == [3, 3]  # the others go on
    assert run(bundle, folder, '-o', folder.parent / 'out', '--overwrite') == 0
    assert np.fromfile(truth, '<u4').tolist() == RAW


def test_a_picture_of_labels_that_are_there_leaves_those_alone(folder: Path, bundle: Path) -> None:
    truth = folder.parent / 'out/000000.label'
    truth.parent.mkdir()
    truth.write_bytes(bytes(4 * len(RAW)))
    scan = folder / '01/velodyne/000000.bin'
    assert run(bundle, scan, '-o', folder.parent / 'out', '--picture') == 0
    assert truth.with_suffix('.png').is_file()
    assert truth.read_bytes() == bytes(4 * len(RAW))


def test_a_missing_picture_is_a_reason_to_segment_again(folder: Path, bundle: Path) -> None:
    scan = folder / '01/velodyne/000000.bin'
    run(bundle, scan)
    run(bundle, scan, '--picture')
    assert FrontIsCar.calls == [3]
    run(bundle, scan, '--picture')
    assert FrontIsCar.calls == []


def test_overwrite_segments_everything_again(folder: Path, bundle: Path) -> None:
    run(bundle, folder, '-o', folder.parent / 'out')
    run(bundle, folder, '-o', folder.parent / 'out', '--overwrite')
    assert FrontIsCar.calls == [3, 3, 3]


def test_a_bad_scan_is_told_and_the_others_go_on(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / '00/velodyne/000000.bin').write_bytes(b'123')
    code = run(bundle, folder, '-o', folder.parent / 'out')
    assert len(list_files(folder.parent / 'out')) == 2
    refuse(capsys, code, '000000.bin: 3 bytes are no multiple of a point')


def test_a_scan_without_points_is_told_and_gets_no_labels(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(folder / 'a.npy', POINTS[:0])
    refuse(capsys, run(bundle, folder / 'a.npy', '-o', folder / 'out'), 'holds no points')
    assert not (folder / 'out').exists()


def test_a_scan_of_nan_is_told_and_gets_no_labels(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(folder / 'a.npy', np.full((5, 4), np.nan, np.float32))
    code = run(bundle, folder / 'a.npy', '-o', folder / 'out')
    refuse(capsys, code, 'the network can see none of its 5 points (5 not finite)')
    assert not (folder / 'out').exists()


def test_missing_input_and_a_folder_without_scans_are_told(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(capsys, run(bundle, folder / 'none.bin'), 'no such scan or folder')
    (folder / 'empty').mkdir()
    refuse(capsys, run(bundle, folder / 'empty'), 'no scans found')


def test_a_bad_bundle_is_told_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / 'out'
    refuse(capsys, run(folder / 'none.safetensors', folder, '-o', out), 'no such bundle')
    (folder / 'bad.safetensors').write_bytes(b'junk')
    refuse(capsys, run(folder / 'bad.safetensors', folder, '-o', out), 'not a complete')
    assert not out.exists()


def test_an_output_that_is_no_folder_is_told(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.parent / 'file').touch()
    refuse(capsys, run(bundle, folder, '-o', folder.parent / 'file'), 'cannot be written')


def test_scans_that_would_share_a_label_file_are_refused(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(folder / '00/velodyne/000000.npy', POINTS)
    refuse(capsys, run(bundle, folder), 'would both write')


def test_the_same_scan_given_twice_is_segmented_once(folder: Path, bundle: Path) -> None:
    scan = folder / '00/velodyne/000000.bin'
    assert run(bundle, scan, scan, scan.parent) == 0
    assert FrontIsCar.calls == [3, 3]


def test_a_nuscenes_sweep_and_columns_are_understood(folder: Path, bundle: Path) -> None:
    np.zeros((4, 5), np.float32).tofile(folder / 'a.pcd.bin')
    np.zeros((2, 6), np.float32).tofile(folder / 'b.bin')
    run(bundle, folder / 'a.pcd.bin', '-o', folder / 'out')
    run(bundle, folder / 'b.bin', '--columns', 6, '-o', folder / 'out')
    assert (folder / 'out/a.label').stat().st_size == 4 * 4
    assert (folder / 'out/b.label').stat().st_size == 2 * 4


def test_ranks_share_the_folder_without_overlap(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, expected in (('0', [3, 3]), ('1', [3])):
        monkeypatch.setenv('RANK', rank)
        monkeypatch.setenv('LOCAL_RANK', rank)
        assert run(bundle, folder, '-o', folder.parent / 'out', '--overwrite') == 0
        assert FrontIsCar.calls == expected
    assert len(list_files(folder.parent / 'out')) == 3


def test_other_ranks_are_quiet(
    folder: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert run(bundle, folder, '-o', folder.parent / 'out') == 0
    assert capsys.readouterr() == ('', '')


def test_every_rank_of_a_machine_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert Rank(index=5, local=1, world=8).choose_device('auto') == 'cuda:1'
    assert Rank(index=5, local=1, world=8).choose_device('cpu') == 'cpu'
    assert Rank().choose_device('auto') == 'auto'


def test_without_a_terminal_progress_is_plain_lines_and_the_summary_names_classes(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(bundle, folder, '-o', folder.parent / 'out')
    printed = capsys.readouterr().out
    assert '\x1b' not in printed
    assert '\r' not in printed
    assert 'segment 3/3' in printed
    # 2 of 3 points lie in front
    assert 'car' in printed
    assert '66.67%' in printed
    assert '12.5' in printed


def test_an_interrupted_run_says_how_to_continue(
    folder: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(self: FrontIsCar, points: NDArray[np.float32]) -> Segmentation:
        raise KeyboardInterrupt

    monkeypatch.setattr(FrontIsCar, 'segment', interrupt)
    assert run(bundle, folder, '-o', folder.parent / 'out') == 130
    assert 'continues where it stopped' in capsys.readouterr().err


def test_help_explains_itself_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='0'):
        segment.main(['--help'])
    printed = capsys.readouterr().out
    assert 'torchrun' in printed
    assert '--bundle FILE' in printed


def test_the_module_runs_end_to_end_with_a_real_network(tmp_path: Path, bundle: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (500, 4)).astype(np.float32)
    points[7] = np.nan
    points.tofile(tmp_path / 'a.bin')
    command = f'-m lidar_kd.cli.segment {tmp_path}/a.bin --picture --bundle {bundle}'
    done = run_command(command.split(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    raw = np.fromfile(tmp_path / 'predictions/a.label', '<u4')
    assert len(raw) == 500
    assert raw[7] == 0
    assert set(raw.tolist()) <= {ids[0] for ids in SEMANTICKITTI.raw_ids} | {0}
    assert (tmp_path / 'predictions/a.png').is_file()

# SPDX-License-Identifier: Apache-2.0
"""What the replay node publishes, without ROS: files and bags in the layouts of the drivers."""

from __future__ import annotations

from pathlib import Path

from cloud_messages import LAYOUTS as BY_HAND
import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.cloud import Cloud, decode, Payload
from lidar_kd.errors import LidarKdError
from lidar_kd.labels import IGNORE
from lidar_kd.ros.replay.layouts import encode_scan, find_layout, LAYOUTS
from lidar_kd.ros.replay.source import open_source

F32, F64, U16, U8 = 7, 8, 4, 2


def make_points(count: int = 300) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (count, 4)).astype(np.float32)
    points[:, 3] = rng.integers(256, size=count) / 255
    return points


def rows_in_order(cloud: Cloud) -> NDArray[np.float32]:
    points = cloud.points[cloud.valid]
    return points[np.lexsort(points.T[:3])]


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Two scans, of 3 and 5 points, that are roads and cars."""
    folder = tmp_path / 'sequences' / '00'
    for name in ('velodyne', 'labels'):
        (folder / name).mkdir(parents=True)
    for number, count in enumerate((3, 5)):
        make_points(count).tofile(folder / 'velodyne' / f'{number:06}.bin')
        raw = np.array([40, 10, 0, 40, 10][:count], np.uint32) | 7 << 16
        raw.tofile(folder / 'labels' / f'{number:06}.label')
    return folder


@pytest.mark.parametrize('name', LAYOUTS)
def test_points_and_intensities_survive_every_layout(name: str) -> None:
    points = make_points()
    cloud = decode(encode_scan(points, find_layout(name)))
    expected = points[np.lexsort(points.T[:3])]
    np.testing.assert_array_equal(rows_in_order(cloud)[:, :3], expected[:, :3])
    # the coarsest layouts keep 8 bits of the intensity
    np.testing.assert_allclose(rows_in_order(cloud)[:, 3], expected[:, 3], atol=0.5 / 255)


@pytest.mark.parametrize(
    'name', ['velodyne', 'ouster', 'hesai', 'livox', *(n for n in LAYOUTS if 'autoware' in n)]
)
def test_fields_lie_where_the_drivers_put_them(name: str) -> None:
    payload = encode_scan(make_points(), find_layout(name))
    step, fields = BY_HAND[name]
    assert payload.point_step == step
    assert [(f.name, f.offset, f.datatype) for f in payload.fields] == list(fields)


def test_what_a_file_lacks_is_plausible() -> None:
    # ahead, to the left, behind (almost once around), above: 3 m, 4 m, 5 m, 10 m away
    points = np.array([[3, 0, 0, 1], [0, 4, 0, 1], [-5, 1e-6, 0, 1], [6, 0, 8, 1]], np.float32)
    rows = decode(encode_scan(points, find_layout('autoware_xyziradrt'))).rows
    np.testing.assert_allclose(rows['distance'], [3, 4, 5, 10])
    np.testing.assert_allclose(rows['azimuth'], [0, np.pi / 2, np.pi, 0], atol=1e-6)
    np.testing.assert_allclose(rows['time_stamp'], [0.05, 0.025, 0, 0.05], atol=1e-6)
    assert rows['ring'].tolist() == [0, 0, 0, 63]


def test_an_organised_layout_has_beams_from_top_to_bottom_and_loses_no_point() -> None:
    points = make_points(1000)  # 8 columns of 128, 24 of them without an echo
    truth = np.arange(1000).astype(np.uint8) % 19
    payload = encode_scan(points, find_layout('ouster'), truth)
    cloud = decode(payload)
    assert (payload.height, payload.width) == (128, 8)
    assert int(cloud.valid.sum()) == 1000
    assert (cloud.rows['ring'].reshape(128, 8) == np.arange(128)[:, None]).all()
    assert (cloud.rows['truth'][~cloud.valid] == IGNORE).all()
    x, y, z, _ = cloud.points.reshape(128, 8, 4)[:, :7].transpose(2, 0, 1)  # full columns
    assert (np.diff(np.arctan2(z, np.hypot(x, y)), axis=0) <= 0).all()
    own = {tuple(point): label for point, label in zip(points[:, :3].tolist(), truth)}
    seen = cloud.points[cloud.valid, :3].tolist()
    assert [own[tuple(point)] for point in seen] == cloud.rows['truth'][cloud.valid].tolist()


@pytest.mark.parametrize('name', LAYOUTS)
def test_scans_without_points_or_with_points_that_are_none_are_encoded(name: str) -> None:
    assert len(decode(encode_scan(np.empty((0, 4), np.float32), find_layout(name)))) == 0
    broken = make_points(200)
    broken[::3, 0], broken[1::3, 2] = np.nan, np.inf
    payload = encode_scan(broken, find_layout(name))
    assert not payload.is_dense
    assert int(decode(payload).valid.sum()) == len(broken[2::3])


def test_a_sequence_is_replayed_with_its_truth(sequence: Path) -> None:
    source = open_source(str(sequence), truth=True)
    assert (len(source), source.rate_hz) == (2, 10)
    payload, frame_id = source.read(1)
    cloud = decode(payload)
    np.testing.assert_array_equal(cloud.points, make_points(5))
    assert cloud.rows['truth'].tolist() == [8, 0, 255, 8, 0]  # road, car, unlabelled
    assert frame_id == ''
    assert [f.name for f in open_source(str(sequence)).read(0).payload.fields] == [
        *'xyz',
        'intensity',
    ]


@pytest.mark.parametrize('suffix', ['.bin', '.pcd', '.ply', '.npy'])
def test_a_folder_and_a_single_scan_are_replayed(tmp_path: Path, suffix: str) -> None:
    points = make_points(6)
    write = {'.bin': write_bin, '.pcd': write_pcd, '.ply': write_ply, '.npy': write_npy}[suffix]
    write(tmp_path / f'a{suffix}', points)
    write(tmp_path / f'b{suffix}', points[:4])
    source = open_source(str(tmp_path))
    assert [len(decode(source.read(index).payload)) for index in (0, 1)] == [6, 4]
    single = open_source(str(tmp_path / f'b{suffix}'))
    np.testing.assert_allclose(decode(single.read(0).payload).points, points[:4], rtol=1e-6)


def write_bin(path: Path, points: NDArray[np.float32]) -> None:
    points.tofile(path)


def write_npy(path: Path, points: NDArray[np.float32]) -> None:
    np.save(path, points)


def write_pcd(path: Path, points: NDArray[np.float32]) -> None:
    head = 'VERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n'
    head += f'WIDTH {len(points)}\nHEIGHT 1\nPOINTS {len(points)}\nDATA binary\n'
    path.write_bytes(head.encode() + points.tobytes())


def write_ply(path: Path, points: NDArray[np.float32]) -> None:
    head = f'ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n'
    head += ''.join(f'property float {name}\n' for name in ('x', 'y', 'z', 'intensity'))
    path.write_bytes(f'{head}end_header\n'.encode() + points.tobytes())


def test_all_scans_of_a_folder_share_one_scale_of_intensity(tmp_path: Path) -> None:
    write_bin(tmp_path / 'a.bin', np.array([[1, 2, 3, 255]], np.float32))
    write_bin(tmp_path / 'b.bin', np.array([[1, 2, 3, 1]], np.float32))
    source = open_source(str(tmp_path))
    assert decode(source.read(1).payload).points[0, 3] == np.float32(1 / 255)


def test_bad_input_is_told_in_one_sentence(sequence: Path, tmp_path: Path) -> None:
    for expected, path, layout in (
        ('path is empty', '', 'auto'),
        ('no such folder', str(tmp_path / 'missing'), 'auto'),
        ('holds sequences 00; name one', str(sequence.parents[1]), 'auto'),
        ("layout 'velodine' is unknown; choose one of xyzi", str(sequence), 'velodine'),
    ):
        with pytest.raises(LidarKdError, match=expected):
            open_source(path, layout=layout)
    (sequence / 'labels' / '000001.label').unlink()
    with pytest.raises(LidarKdError, match='unpack the labels or set truth to false'):
        open_source(str(sequence), truth=True)


def test_labels_of_another_scan_are_refused(sequence: Path) -> None:
    (sequence / 'labels' / '000000.label').write_bytes(b'\0' * 8)
    with pytest.raises(LidarKdError, match='8 bytes are no uint32 labels for 3 points'):
        open_source(str(sequence), truth=True)


# bags


def write_bag(path: Path, payloads: list[Payload]) -> Path:
    """One cloud every 50 ms."""
    rosbag2 = pytest.importorskip('rosbags.rosbag2', reason='needs rosbags')
    typesys = pytest.importorskip('rosbags.typesys')
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    types, name = store.types, 'sensor_msgs/msg/PointCloud2'
    stamp = types['builtin_interfaces/msg/Time'](sec=1, nanosec=2)
    with rosbag2.Writer(path, version=8) as writer:
        topic = writer.add_connection('/points', name, typestore=store)
        for number, payload in enumerate(payloads):
            message = types[name](
                header=types['std_msgs/msg/Header'](stamp=stamp, frame_id='roof'),
                height=payload.height,
                width=payload.width,
                fields=[types['sensor_msgs/msg/PointField'](*each) for each in payload.fields],
                is_bigendian=False,
                point_step=payload.point_step,
                row_step=payload.row_step,
                data=np.frombuffer(payload.data, np.uint8),
                is_dense=True,
            )
            content = store.serialize_cdr(message, name)
            writer.write(topic, 50_000_000 * number, content)
    return path


def test_a_bag_is_replayed_byte_by_byte_at_its_own_rate(tmp_path: Path) -> None:
    recorded = [encode_scan(make_points(n), find_layout('hesai')) for n in (5, 7, 9)]
    source = open_source(str(write_bag(tmp_path / 'bag', recorded)))
    assert len(source) == 3
    assert source.rate_hz == pytest.approx(20)
    payload, frame_id = source.read(1)
    assert frame_id == 'roof'
    assert payload.data == recorded[1].data
    assert payload.fields == recorded[1].fields
    assert (payload.height, payload.width, payload.point_step) == (1, 7, 26)


def test_a_bag_can_be_replayed_in_another_layout(tmp_path: Path) -> None:
    recorded = encode_scan(make_points(5), find_layout('autoware_xyzirc'))
    bag = write_bag(tmp_path / 'bag', [recorded])
    payload = open_source(str(bag), layout='velodyne').read(0).payload
    assert payload.point_step == 22
    np.testing.assert_allclose(decode(payload).points, make_points(5), atol=0.5 / 255)


def test_a_bag_has_no_truth(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', [encode_scan(make_points(5), find_layout('xyzi'))])
    with pytest.raises(LidarKdError, match='set truth to false'):
        open_source(str(bag), truth=True)

# SPDX-License-Identifier: Apache-2.0
"""The PointCloud2 codec against clouds packed byte by byte with struct."""

from __future__ import annotations

from array import array
import math
from pathlib import Path
import struct
from typing import Any

from cloud_messages import (
    answers,
    F32,
    FakeCloud,
    FakeField,
    is_intensity,
    LAYOUTS,
    pack,
    POINTS,
    U8,
    U16,
    XYZ,
)
import numpy as np
import pytest

from lidar_kd.cloud import decode, encode_labeled, encode_segmented, MalformedCloud, move, select
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.sensor.intensity import IntensityRange

REAL = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'clouds'


@pytest.mark.parametrize('big', [False, True], ids=['little', 'big'])
@pytest.mark.parametrize(('height', 'padding'), [(1, 0), (3, 0), (1, 7), (4, 16), (12, 5)])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_points_that_were_packed(
    layout: str, height: int, padding: int, big: bool
) -> None:
    message = pack(layout, POINTS, height=height, padding=padding, big=big)
    cloud = decode(message, intensity_scale=1.0)
    expected = np.array(POINTS, np.float32)
    if layout == 'bare':
        expected[:, 3] = 0
    np.testing.assert_array_equal(cloud.points, expected)
    assert cloud.points.dtype == np.float32
    assert cloud.points.flags.c_contiguous
    assert cloud.valid.all()
    for name, _, _ in LAYOUTS[layout][1]:
        if name not in 'xyz' and not is_intensity(layout, name):
            np.testing.assert_array_equal(cloud.rows[name], np.arange(12))


@pytest.mark.parametrize('kind', [bytes, bytearray, memoryview, np.array])
def test_any_kind_of_bytes_is_read(kind: Any) -> None:
    message = pack('velodyne', POINTS)
    message.data = kind(message.data)
    np.testing.assert_array_equal(
        decode(message, intensity_scale=1.0).points, np.array(POINTS, np.float32)
    )


def test_points_of_sixteen_bytes_share_the_memory_of_the_message_and_cannot_change_it() -> None:
    message = pack('kitti', POINTS)
    cloud = decode(message, intensity_scale=1.0)
    assert np.shares_memory(cloud.points, np.frombuffer(message.data, np.uint8))
    assert not cloud.points.flags.writeable
    assert not cloud.rows.flags.writeable


def test_scaling_the_intensity_leaves_the_message_alone() -> None:
    message = pack('kitti', POINTS)
    before = bytes(message.data)
    assert decode(message, intensity_scale=0.5).points[3].tolist() == [3.5, -6.75, -0.625, 30]
    assert bytes(message.data) == before


def test_points_without_an_echo_stay_in_place_and_are_not_valid() -> None:
    nan, inf = math.nan, math.inf
    points = [(1, 2, 3, 1), (nan, 2, 3, 1), (1, inf, 3, 1), (1, 2, -inf, 1), (0, 0, 0, 1)]
    points += [(inf, -inf, 0, 1), (0, 0, 1e-6, 1), (-0.0, 0, 0, 1), (-5, 5, 0, 1)]
    cloud = decode(pack('hesai', points))
    assert cloud.valid.tolist() == [True, *[False] * 5, True, False, True]
    np.testing.assert_array_equal(cloud.points[:, :3], np.array(points, np.float32)[:, :3])


def test_positions_beyond_float32_are_not_valid() -> None:
    assert decode(pack('float64', [(1e300, 0, 0, 0), (1, 0, 0, 0)])).valid.tolist() == [
        False,
        True,
    ]


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('height', [0, 1, 64])
def test_an_empty_cloud_is_answered_with_empty_clouds(layout: str, height: int) -> None:
    message = pack(layout, [])
    message.height = height
    cloud = decode(message)
    nothing = np.empty(0, np.float32)
    labels = np.empty(0, np.uint8)
    payloads = [
        encode_segmented(cloud, labels, nothing, nothing),
        encode_labeled(cloud, labels, SEMANTICKITTI),
        select(cloud, np.empty(0, bool)),
    ]
    assert cloud.points.shape == (0, 4)
    assert [len(payload.data) for payload in payloads] == [0, 0, 0]
    assert payloads[1].height == height


def test_a_message_that_nobody_filled_in_is_an_empty_cloud() -> None:
    assert len(decode(FakeCloud([], 0, 0, 0))) == 0


# intensity


@pytest.mark.parametrize(
    ('layout', 'values', 'expected'),
    [
        ('autoware_xyzirc', [0, 51, 255], [0, 0.2, 1]),  # u8: of 255
        ('autoware_xyzirc', [0, 1, 1], [0, 1 / 255, 1 / 255]),  # whatever it holds
        ('float64', [0, 51, 255], [0, 0.2, 1]),  # u16 that holds 8 bits
        ('float64', [0, 819, 4095], [0, 0.2, 1]),  # 12 bits
        ('float64', [0, 13107, 65535], [0, 0.2, 1]),
        ('kitti', [0, 0.25, 1], [0, 0.25, 1]),
        ('kitti', [0, 51, 255], [0, 0.2, 1]),
        ('kitti', [0, 819, 1000], [0, 0.2, 1000 / 4095]),
        ('kitti', [0, 13107, 20000], [0, 0.2, 20000 / 65535]),
        ('kitti', [math.nan, 51, 255], [0, 0.2, 1]),
        ('kitti', [-math.inf, 51, 255], [0, 0.2, 1]),
        ('bare', [1, 2, 3], [0, 0, 0]),
    ],
)
def test_intensities_are_brought_to_one_scale(
    layout: str, values: list[float], expected: list[float]
) -> None:
    message = pack(layout, [(1, 2, 3, value) for value in values])
    np.testing.assert_allclose(decode(message).points[:, 3], expected, rtol=1e-6)
    scaled = decode(message, scale_to=255.0).points[:, 3]
    np.testing.assert_allclose(scaled, 255 * np.array(expected), rtol=1e-6)


def test_a_dark_scan_is_scaled_like_the_bright_ones_before_it() -> None:
    seen = IntensityRange()
    bright = pack('kitti', [(1, 2, 3, 255.0)] * 3)
    dark = pack('kitti', [(1, 2, 3, 1.0)] * 3)
    assert decode(dark, intensity_range=seen).points[0, 3] == 1
    assert decode(bright, intensity_range=seen).points[0, 3] == 1
    assert decode(dark, intensity_range=seen).points[0, 3] == np.float32(1 / 255)


def test_a_stray_intensity_does_not_change_the_scale_of_all_others() -> None:
    points = [(1, 2, 3, 51.0)] * 1999 + [(1, 2, 3, 3e38)]
    assert decode(pack('kitti', points)).points[0, 3] == pytest.approx(0.2)


@pytest.mark.parametrize(('count', 'strays'), [(16, 4), (40, 8), (2000, 8)])
def test_a_few_strays_do_not_change_the_scale_of_a_short_scan(count: int, strays: int) -> None:
    # a quarter, but at most 8, may exceed; 0.1 % of 2000 would be 2
    points = [(1, 2, 3, 51.0)] * (count - strays) + [(1, 2, 3, 6e4)] * strays
    assert decode(pack('kitti', points)).points[0, 3] == pytest.approx(0.2)
    points[0] = points[-1]
    assert decode(pack('kitti', points)).points[1, 3] == pytest.approx(51 / 65535)


def test_the_first_scan_sets_the_scale_and_only_several_in_a_row_raise_it() -> None:
    seen = IntensityRange(patience=3)
    usual, sign, raw = (np.full(100, value, np.float32) for value in (200, 3000, 60000))
    assert not seen.settled
    assert [seen.find(usual), seen.settled] == [255, True]
    assert [seen.find(values) for values in (sign, sign, usual, raw, sign)] == [255] * 5
    # the last three needed 65535, 4095 and 65535: 4095 is what all of them did
    assert seen.find(raw) == 4095
    assert [seen.find(usual) for _ in range(3)] == [4095] * 3


def test_a_sensor_that_spins_up_dark_settles_nothing() -> None:
    seen = IntensityRange(patience=5)
    dark, usual = np.zeros(100, np.float32), np.full(100, 200, np.float32)
    assert [seen.find(values) for values in (dark, dark, usual, usual)] == [1, 1, 255, 255]
    assert IntensityRange().find(np.zeros(3, np.uint16)) == 255


def test_bytes_are_0_to_255_in_the_first_scan_and_all_others() -> None:
    seen = IntensityRange(patience=3)
    assert [seen.find(np.full(9, value, np.uint8)) for value in (0, 1, 255, 255)] == [255] * 4


def test_the_field_of_the_intensity_can_be_chosen() -> None:
    message = pack('ouster', POINTS)
    ring = decode(message, intensity_field='ring', intensity_scale=1.0)
    assert ring.points[:, 3].tolist() == list(range(12))
    assert not decode(message, intensity_field='none').points[:, 3].any()
    with pytest.raises(MalformedCloud, match="no intensity field 'power' .* x, y, z, intensity"):
        decode(message, intensity_field='power')


# outputs


@pytest.mark.parametrize('big', [False, True], ids=['little', 'big'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_segmented_cloud_is_autowares_byte_by_byte(layout: str, big: bool) -> None:
    points = [*POINTS[:11], (math.nan, 1, 2, 3)]
    cloud = decode(pack(layout, points, height=3, padding=3, big=big))
    labels, probability, entropy = answers(12)
    labels[11], probability[11], entropy[11] = 255, 0, math.nan
    payload = encode_segmented(cloud, labels, probability, entropy)
    expected = b''.join(
        struct.pack('<fffBxxxff', *point[:3], *answer)
        for point, answer in zip(points, zip(labels, probability, entropy))
    )
    assert payload.data.tobytes() == expected
    assert payload.data.typecode == 'B'
    assert [(f.name, f.offset, f.datatype, f.count) for f in payload.fields] == [
        ('x', 0, F32, 1),
        ('y', 4, F32, 1),
        ('z', 8, F32, 1),
        ('class_id', 12, U8, 1),
        ('probability', 16, F32, 1),
        ('entropy', 20, F32, 1),
    ]
    shape = (payload.height, payload.width, payload.point_step, payload.row_step)
    assert shape == (1, 12, 24, 288)
    assert (payload.is_bigendian, payload.is_dense) == (False, False)


def test_a_buffer_of_the_right_size_is_written_again_and_another_is_not() -> None:
    cloud = decode(pack('kitti', POINTS))
    first = encode_segmented(cloud, *answers(12))
    labels, probability, entropy = answers(12)
    second = encode_segmented(cloud, labels[::-1], probability, entropy, out=first.data)
    assert second.data is first.data
    assert (
        second.data.tobytes()
        == encode_segmented(cloud, labels[::-1], probability, entropy).data.tobytes()
    )
    other = decode(pack('kitti', POINTS[:4]))
    assert encode_segmented(other, *answers(4), out=first.data).data is not first.data


@pytest.mark.parametrize('big', [False, True], ids=['little', 'big'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_labelled_cloud_is_the_input_with_label_and_colour(layout: str, big: bool) -> None:
    message = pack(layout, POINTS, height=3, padding=9, big=big)
    labels = answers(12)[0]
    labels[5] = IGNORE
    payload = encode_labeled(decode(message), labels, SEMANTICKITTI)
    step, rows = LAYOUTS[layout][0], pack(layout, POINTS, height=3, big=big).data.tobytes()
    *own, label, rgb = payload.fields
    assert [(f.name, f.offset, f.datatype) for f in own] == list(LAYOUTS[layout][1])
    assert (label.name, label.offset, label.datatype) == ('label', step, U8)
    assert (rgb.name, rgb.datatype, rgb.offset % 4) == ('rgb', F32, 0)
    assert step < rgb.offset <= step + 4
    assert payload.point_step == rgb.offset + 4
    shape = (payload.height, payload.width, payload.row_step, payload.is_bigendian)
    assert shape == (3, 4, 4 * payload.point_step, big)
    for i, train_id in enumerate(labels.tolist()):
        point = payload.data.tobytes()[i * payload.point_step : (i + 1) * payload.point_step]
        red, green, blue = SEMANTICKITTI.colour(np.array(train_id, np.uint8)).tolist()
        colour = struct.pack(
            '>BBBB' if big else '<BBBB', *((0, red, green, blue) if big else (blue, green, red, 0))
        )
        assert point[:step] == rows[i * step : (i + 1) * step]
        assert point[step] == train_id
        assert point[rgb.offset :] == colour


def test_fields_of_the_input_give_way_to_ours_of_the_same_name() -> None:
    message = FakeCloud(
        [FakeField(*each) for each in XYZ]
        + [FakeField('label', 12, U16), FakeField('rgb', 14, U8), FakeField('input_rgb', 15, U8)],
        width=1,
        data=array('B', struct.pack('<fffHBB', 1, 2, 3, 4711, 7, 8)),
    )
    payload = encode_labeled(decode(message), np.array([9], np.uint8), SEMANTICKITTI)
    names = [each.name for each in payload.fields]
    assert names == ['x', 'y', 'z', 'input_label', 'input_rgb_', 'input_rgb', 'label', 'rgb']
    point = decode(payload).rows[0]
    values = [point[name] for name in ('input_label', 'input_rgb_', 'input_rgb', 'label')]
    assert values == [4711, 7, 8, 9]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_filter_keeps_the_bytes_and_the_order_of_the_chosen_points(layout: str) -> None:
    points = [*POINTS[:11], (0, 0, 0, 0)]  # the last one has no echo: it never passes
    step = LAYOUTS[layout][0]
    keep = np.array([i in (1, 4, 5, 11) for i in range(12)])
    payload = select(decode(pack(layout, points, height=3, padding=2)), keep)
    rows = pack(layout, points).data.tobytes()
    assert payload.data.tobytes() == b''.join(rows[i * step : (i + 1) * step] for i in (1, 4, 5))
    assert (payload.height, payload.width, payload.point_step) == (1, 3, step)
    assert payload.is_dense


@pytest.mark.parametrize('big', [False, True], ids=['little', 'big'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_moved_cloud_has_moved_points_and_all_other_bytes_as_before(
    layout: str, big: bool
) -> None:
    points = [(1, 2, 3, 4), (0, 0, 0, 0), (-1, 0.5, 0, 9), (math.nan, 0, 0, 0)]
    pose = np.eye(4)
    pose[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # a quarter turn to the left
    pose[:3, 3] = [10, 20, 30]
    cloud = decode(pack(layout, points, big=big), intensity_scale=1.0)
    moved = move(cloud, pose)
    # x' = 10 - y, y' = 20 + x, z' = 30 + z; what has no echo stays where it was
    turned = [(8, 21, 33, 4), (0, 0, 0, 0), (9.5, 19, 30, 9), (math.nan, 0, 0, 0)]
    expected = decode(pack(layout, turned, big=big), intensity_scale=1.0)
    np.testing.assert_array_equal(moved.points, expected.points)
    assert moved.rows.tobytes() == expected.rows.tobytes()


# messages of ROS itself


def test_the_messages_of_ros_are_read_and_filled() -> None:
    messages = pytest.importorskip('sensor_msgs.msg', reason='needs ROS 2 (the extra ros)')
    source = pack('hesai', POINTS, height=3)
    message = messages.PointCloud2(
        fields=[messages.PointField(**vars(each)) for each in source.fields],
        height=3,
        width=4,
        point_step=26,
        row_step=104,
        data=source.data,
    )
    cloud = decode(message, intensity_scale=1.0)
    np.testing.assert_array_equal(cloud.points, np.array(POINTS, np.float32))
    message.data = encode_segmented(cloud, *answers(12)).data
    assert len(message.data) == 12 * 24


def test_sensor_msgs_py_reads_the_same() -> None:
    reader = pytest.importorskip(
        'sensor_msgs_py.point_cloud2', reason='needs a ROS 2 distribution: it is not on PyPI'
    )
    messages = pytest.importorskip('sensor_msgs.msg')
    for layout in LAYOUTS:
        source = pack(layout, POINTS)
        fields = [messages.PointField(**vars(each)) for each in source.fields]
        described = vars(source) | {'fields': fields}
        theirs = reader.read_points(messages.PointCloud2(**described), field_names=['x', 'y', 'z'])
        ours = decode(source).points
        for column, name in enumerate('xyz'):
            np.testing.assert_array_equal(ours[:, column], theirs[name].astype(np.float32))


def test_a_real_cloud_with_unaligned_fields_is_read() -> None:
    path = REAL / 'pointcloud2_xyzi_rt_step26.cdr'
    if not path.is_file():
        pytest.skip('needs the shared data beside the checkout')
    rosbags = pytest.importorskip('rosbags.typesys', reason='needs rosbags')
    store = rosbags.get_typestore(rosbags.Stores.ROS2_HUMBLE)
    message = store.deserialize_cdr(path.read_bytes(), 'sensor_msgs/msg/PointCloud2')
    cloud = decode(message)
    assert len(cloud) == 64_000
    assert cloud.layout.point_step == 26
    xyz = np.array(
        [struct.unpack_from('<fff', message.data, 26 * i) for i in range(0, 64_000, 99)]
    )
    np.testing.assert_array_equal(cloud.points[::99, :3], xyz.astype(np.float32))
    assert 0 <= cloud.points[:, 3].min() <= cloud.points[:, 3].max() <= 1

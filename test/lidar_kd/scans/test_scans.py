# SPDX-License-Identifier: Apache-2.0
"""Every kind of scan file becomes the same (N, 4) points; every broken one gets a sentence."""

from pathlib import Path
import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.scans import count_points_in_file, find_scans, read_scan, strip_suffix
from lidar_kd.scans.pcd import decompress_lzf

CLOUDS = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'clouds'
needs_clouds = pytest.mark.skipif(not CLOUDS.is_dir(), reason='../shared/data is not here')

POINTS = np.array([[1, 2, 3, 0.5], [-4, 5.5, -6, 1], [7, 8, 9, 0]], np.float32)


def make_pcd(path: Path, encoding: str, body: bytes, points: int = 3, **lines: Any) -> Path:
    header = {
        'VERSION': '.7',
        'FIELDS': 'x y z intensity',
        'SIZE': '4 4 4 4',
        'TYPE': 'F F F F',
        'COUNT': '1 1 1 1',
        'WIDTH': str(points),
        'HEIGHT': '1',
        'POINTS': str(points),
        'DATA': encoding,
    } | lines
    text = ''.join(f'{key} {value}\n' for key, value in header.items() if value)
    path.write_bytes(b'# .PCD v.7\n' + text.encode() + body)
    return path


def make_ply(path: Path, encoding: str, body: bytes, properties: str, vertices: int = 3) -> Path:
    lines = ['ply', f'format {encoding} 1.0', 'comment toy', f'element vertex {vertices}']
    lines += [f'property {text}' for text in properties.split(',')]
    path.write_bytes('\n'.join([*lines, 'end_header', '']).encode() + body)
    return path


def store_lzf(data: bytes) -> bytes:
    """A valid LZF stream of literal runs only: control byte = run length - 1, at most 31."""
    runs = [data[start : start + 32] for start in range(0, len(data), 32)]
    return b''.join(bytes([len(run) - 1]) + run for run in runs)


def assert_reads(path: Path, expected: NDArray[np.float32] = POINTS) -> None:
    points = read_scan(path)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, expected)


def test_a_kitti_bin_has_four_floats_per_point(tmp_path: Path) -> None:
    POINTS.tofile(tmp_path / 'a.bin')
    assert_reads(tmp_path / 'a.bin')


def test_a_nuscenes_sweep_has_five_floats_and_drops_the_ring(tmp_path: Path) -> None:
    np.column_stack([POINTS, [7, 8, 9]]).astype(np.float32).tofile(tmp_path / 'a.pcd.bin')
    assert_reads(tmp_path / 'a.pcd.bin')


def test_columns_override_the_layout_of_a_bin(tmp_path: Path) -> None:
    np.column_stack([POINTS, POINTS[:, :2]]).astype(np.float32).tofile(tmp_path / 'a.bin')
    np.testing.assert_array_equal(read_scan(tmp_path / 'a.bin', columns=6), POINTS)


def test_three_columns_leave_the_intensity_zero(tmp_path: Path) -> None:
    POINTS[:, :3].tofile(tmp_path / 'a.bin')
    assert read_scan(tmp_path / 'a.bin', columns=3)[:, 3].tolist() == [0, 0, 0]


def test_fewer_than_three_columns_are_refused(tmp_path: Path) -> None:
    POINTS.tofile(tmp_path / 'a.bin')
    with pytest.raises(ConfigError, match='at least x, y, z'):
        read_scan(tmp_path / 'a.bin', columns=2)


def test_a_size_that_is_no_multiple_of_a_point_names_the_columns_that_fit(tmp_path: Path) -> None:
    np.zeros(5, np.float32).tofile(tmp_path / 'a.bin')
    # 20 bytes: not 4 x 16, but one point of 5 columns
    with pytest.raises(DataError, match=r'20 bytes are no multiple .*16 bytes.*columns 5'):
        read_scan(tmp_path / 'a.bin')


def test_a_cut_off_bin_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'a.bin').write_bytes(POINTS.tobytes()[:-3])
    with pytest.raises(DataError, match='copy it again'):
        read_scan(tmp_path / 'a.bin')


def test_nan_and_infinite_points_stay_in_place(tmp_path: Path) -> None:
    odd = POINTS.copy()
    odd[0, 0], odd[1, 2] = np.nan, np.inf
    odd.tofile(tmp_path / 'a.bin')
    assert_reads(tmp_path / 'a.bin', odd)


@pytest.mark.parametrize(('name', 'columns'), [('a.bin', 4), ('a.pcd.bin', 5), ('b.bin', 6)])
def test_the_points_of_a_bin_are_counted_by_its_size(
    tmp_path: Path, name: str, columns: int
) -> None:
    np.zeros((7, columns), np.float32).tofile(tmp_path / name)
    assert count_points_in_file(tmp_path / name, columns=6 if columns == 6 else None) == 7


def test_the_points_of_other_files_are_counted_by_reading(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', POINTS)
    assert count_points_in_file(tmp_path / 'a.npy') == 3


def test_an_ascii_pcd_is_read(tmp_path: Path) -> None:
    body = b'1 2 3 0.5\n-4 5.5 -6 1\n7 8 9 0\n'
    assert_reads(make_pcd(tmp_path / 'a.pcd', 'ascii', body))


def test_an_ascii_pcd_may_hold_nan(tmp_path: Path) -> None:
    body = b'1 2 3 0.5\nnan nan nan 1\n7 8 9 0\n'
    assert np.isnan(read_scan(make_pcd(tmp_path / 'a.pcd', 'ascii', body))[1, :3]).all()


def test_a_binary_pcd_is_read(tmp_path: Path) -> None:
    assert_reads(make_pcd(tmp_path / 'a.pcd', 'binary', POINTS.tobytes()))


def test_a_binary_pcd_with_padding_and_mixed_types_is_read(tmp_path: Path) -> None:
    layout = [('x', '<f8'), ('y', '<f4'), ('z', '<i2'), ('_', 'u1', 3), ('intensity', 'u1')]
    rows = np.zeros(2, layout)
    rows['x'], rows['y'], rows['z'], rows['intensity'] = [1.5, 2], [3, 4], [-5, 6], [255, 1]
    path = make_pcd(
        tmp_path / 'a.pcd',
        'binary',
        rows.tobytes(),
        points=2,
        FIELDS='x y z _ intensity',
        SIZE='8 4 2 1 1',
        TYPE='F F I U U',
        COUNT='1 1 1 3 1',
    )
    assert_reads(path, np.array([[1.5, 3, -5, 255], [2, 4, 6, 1]], np.float32))


def test_a_compressed_pcd_lies_field_after_field(tmp_path: Path) -> None:
    by_field = np.ascontiguousarray(POINTS.T).tobytes()
    packed = store_lzf(by_field)
    body = struct.pack('<II', len(packed), len(by_field)) + packed
    assert_reads(make_pcd(tmp_path / 'a.pcd', 'binary_compressed', body))


def test_an_lzf_reference_repeats_what_it_has_just_written() -> None:
    # 'abc' literally (control 2), then 6 bytes from 3 back: control (6 - 2) << 5, offset 3 - 1
    assert decompress_lzf(bytes([2]) + b'abc' + bytes([4 << 5, 2]), 9) == b'abcabcabc'


def test_a_long_lzf_reference_has_its_length_in_a_byte_of_its_own() -> None:
    # 'a', then 7 + 20 + 2 = 29 bytes from 1 back
    assert decompress_lzf(bytes([0]) + b'a' + bytes([7 << 5, 20, 0]), 30) == b'a' * 30


@pytest.mark.parametrize('damage', [slice(0, -4), slice(0, 4), slice(0, 0)])
def test_a_cut_off_compressed_pcd_is_refused(tmp_path: Path, damage: slice) -> None:
    by_field = np.ascontiguousarray(POINTS.T).tobytes()
    packed = store_lzf(by_field)
    body = struct.pack('<II', len(packed), len(by_field)) + packed
    with pytest.raises(DataError, match='cut off'):
        read_scan(make_pcd(tmp_path / 'a.pcd', 'binary_compressed', body[damage]))


def test_a_damaged_compressed_pcd_is_refused(tmp_path: Path) -> None:
    body = struct.pack('<II', 3, 48) + bytes([1 << 5, 9, 0])  # refers to 10 bytes before the start
    with pytest.raises(DataError, match='damaged'):
        read_scan(make_pcd(tmp_path / 'a.pcd', 'binary_compressed', body))


@pytest.mark.parametrize(
    ('encoding', 'body'), [('binary', POINTS.tobytes()[:-1]), ('ascii', b'1 2 3 0.5\n4 5 6')]
)
def test_a_cut_off_pcd_is_refused(tmp_path: Path, encoding: str, body: bytes) -> None:
    with pytest.raises(DataError, match='cut off'):
        read_scan(make_pcd(tmp_path / 'a.pcd', encoding, body))


@pytest.mark.parametrize(
    ('lines', 'sentence'),
    [
        ({'DATA': 'zipped'}, "data 'zipped' is unknown"),
        ({'FIELDS': ''}, 'header is damaged'),
        ({'SIZE': '4 4 4 3'}, 'header is damaged'),
        ({'TYPE': 'F F F Q'}, 'header is damaged'),
        ({'COUNT': '1 1'}, 'header is damaged'),
        ({'POINTS': 'many'}, 'header is damaged'),
        ({'POINTS': '-1'}, 'header is damaged'),
        ({'POINTS': '99999999999999'}, 'no single scan'),
        ({'FIELDS': 'a b c intensity'}, 'no field x, y, z among a, b, c, intensity'),
        ({'DATA': ''}, 'no DATA line'),
    ],
)
def test_a_damaged_pcd_header_is_refused(
    tmp_path: Path, lines: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read_scan(make_pcd(tmp_path / 'a.pcd', 'binary', POINTS.tobytes(), **lines))


def test_a_pcd_without_points_line_has_width_times_height_points(tmp_path: Path) -> None:
    path = make_pcd(
        tmp_path / 'a.pcd', 'binary', POINTS[:2].tobytes(), POINTS='', WIDTH='1', HEIGHT='2'
    )
    assert len(read_scan(path)) == 2


@pytest.mark.parametrize('encoding', ['ascii', 'binary'])
def test_a_pcd_without_points_is_an_empty_scan(tmp_path: Path, encoding: str) -> None:
    assert read_scan(make_pcd(tmp_path / 'a.pcd', encoding, b'', points=0)).shape == (0, 4)


@pytest.mark.parametrize('order', ['<', '>'])
def test_a_binary_ply_of_either_byte_order_is_read(
    tmp_path: Path, order: Literal['<', '>']
) -> None:
    layout = [('x', 'f8'), ('y', 'f4'), ('red', 'u1'), ('z', 'f4'), ('scalar_Intensity', 'f4')]
    rows = np.zeros(3, np.dtype(layout).newbyteorder(order))
    rows['x'], rows['y'], rows['z'], rows['scalar_Intensity'] = POINTS.T
    encoding = 'binary_little_endian' if order == '<' else 'binary_big_endian'
    properties = 'double x,float y,uchar red,float z,float scalar_Intensity'
    assert_reads(make_ply(tmp_path / 'a.ply', encoding, rows.tobytes(), properties))


def test_an_ascii_ply_is_read_past_its_faces(tmp_path: Path) -> None:
    body = b'1 2 3 0.5\n-4 5.5 -6 1\n7 8 9 0\n3 0 1 2\n'
    properties = 'float x,float y,float z,float reflectivity'
    assert_reads(make_ply(tmp_path / 'a.ply', 'ascii', body, properties))


def test_elements_before_the_vertices_are_skipped(tmp_path: Path) -> None:
    header = (
        'ply\nformat binary_little_endian 1.0\nelement camera 2\nproperty double angle\n'
        'element vertex 3\nproperty float x\nproperty float y\nproperty float z\n'
        'property float intensity\nend_header\n'
    )
    (tmp_path / 'a.ply').write_bytes(header.encode() + bytes(16) + POINTS.tobytes())
    assert_reads(tmp_path / 'a.ply')


@pytest.mark.parametrize(
    ('encoding', 'body', 'properties', 'sentence'),
    [
        ('binary_little_endian', b'123', 'float x,float y,float z', 'cut off'),
        ('ascii', b'1 2 3\n4 5', 'float x,float y,float z', 'cut off'),
        ('ascii', b'1 2 3\n4 5 6\n7 8 nine', 'float x,float y,float z', 'not a number'),
        ('ascii', b'1\n2\n3', 'float x', 'no field y, z among x'),
        ('binary_middle_endian', b'', 'float x', 'not a readable PLY'),
        ('ascii', b'', 'quaternion x', 'not a readable PLY'),
        ('binary_little_endian', bytes(24), 'float x,float x', 'not a readable PLY'),
        ('binary_little_endian', b'', 'list uchar int near,float x', 'lists .* not supported'),
    ],
)
def test_a_damaged_ply_is_refused(
    tmp_path: Path, encoding: str, body: bytes, properties: str, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read_scan(make_ply(tmp_path / 'a.ply', encoding, body, properties))


def test_a_ply_without_vertices_is_an_empty_scan(tmp_path: Path) -> None:
    path = make_ply(
        tmp_path / 'a.ply', 'binary_little_endian', b'', 'float x,float y,float z', vertices=0
    )
    assert read_scan(path).shape == (0, 4)


def test_numpy_arrays_of_any_number_type_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', POINTS.astype(np.float64))
    assert_reads(tmp_path / 'a.npy')
    np.save(tmp_path / 'b.npy', np.array([[1, 2, 3]]))
    assert_reads(tmp_path / 'b.npy', np.array([[1, 2, 3, 0]], np.float32))


def test_a_structured_numpy_array_is_read_by_field_name(tmp_path: Path) -> None:
    rows = np.zeros(3, [('x', 'f4'), ('y', 'f4'), ('z', 'f4'), ('reflectivity', 'f4')])
    rows['x'], rows['y'], rows['z'], rows['reflectivity'] = POINTS.T
    np.save(tmp_path / 'a.npy', rows)
    assert_reads(tmp_path / 'a.npy')


def test_an_archive_is_read_by_key_or_when_it_holds_one_array(tmp_path: Path) -> None:
    np.savez(tmp_path / 'a.npz', other=np.zeros(2), points=POINTS)
    assert_reads(tmp_path / 'a.npz')
    np.savez_compressed(tmp_path / 'b.npz', anything=POINTS)
    assert_reads(tmp_path / 'b.npz')
    np.savez(tmp_path / 'c.npz', xyz=POINTS[:, :3], intensity=POINTS[:, 3])
    assert_reads(tmp_path / 'c.npz')


def test_an_archive_without_a_known_key_names_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / 'a.npz', first=POINTS, second=POINTS)
    with pytest.raises(DataError, match='among first, second; rename'):
        read_scan(tmp_path / 'a.npz')


@pytest.mark.parametrize(
    'array', [np.zeros((3, 2)), np.zeros(3), np.zeros((3, 3), complex), np.array([['a'] * 3])]
)
def test_an_array_that_is_no_scan_is_refused(tmp_path: Path, array: NDArray[np.generic]) -> None:
    np.save(tmp_path / 'a.npy', array)
    with pytest.raises(DataError, match='is no scan'):
        read_scan(tmp_path / 'a.npy')


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', np.array([{}], dtype=object))
    with pytest.raises(DataError, match='not a readable numpy file'):
        read_scan(tmp_path / 'a.npy')


@pytest.mark.parametrize('suffix', ['.npy', '.npz'])
def test_a_cut_off_numpy_file_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f'a{suffix}'
    np.savez(whole, points=POINTS) if suffix == '.npz' else np.save(whole, POINTS)
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match='not a readable numpy file'):
        read_scan(whole)


@pytest.mark.parametrize('suffix', ['.pcd', '.ply', '.npy', '.npz'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f'a{suffix}').write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError):
        read_scan(tmp_path / f'a{suffix}')


@pytest.mark.parametrize('suffix', ['.bin', '.pcd', '.ply', '.npy', '.npz', '.pcd.bin'])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f'a{suffix}').touch()
    with pytest.raises(DataError, match='the file is empty'):
        read_scan(tmp_path / f'a{suffix}')


def test_a_missing_file_a_folder_and_an_unknown_suffix_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'b\.bin: no such file'):
        read_scan(tmp_path / 'b.bin')
    with pytest.raises(DataError, match='a folder, not a scan'):
        read_scan(tmp_path)
    (tmp_path / 'a.las').write_bytes(b'LASF')
    with pytest.raises(DataError, match=r"unknown kind of scan '\.las'"):
        read_scan(tmp_path / 'a.las')


def test_an_empty_array_is_an_empty_scan(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', np.zeros((0, 4), np.float32))
    assert read_scan(tmp_path / 'a.npy').shape == (0, 4)


def test_scans_are_found_in_order_below_a_folder_and_labels_are_not(tmp_path: Path) -> None:
    names = ['00/velodyne/000001.bin', '00/velodyne/000000.bin', '01/a.PCD', 'x.pcd.bin']
    others = ['00/labels/000000.label', 'x_lidarseg.bin', '.hidden.bin', 'poses.txt']
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_scans(tmp_path)]
    assert found == sorted(names)


def test_a_folder_without_scans_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'no scans found; expected files like \*\.bin'):
        find_scans(tmp_path)


def test_the_whole_suffix_is_stripped() -> None:
    assert strip_suffix(Path('a/b.c.pcd.bin')) == 'b.c'
    assert strip_suffix(Path('000000.bin')) == '000000'


@needs_clouds
@pytest.mark.parametrize(
    ('name', 'points'),
    [('nuscenes_lidar_top.pcd.bin', 34688), ('os1-128_000000.bin', 107647), ('vlp32.pcd', 26216)],
)
def test_real_scans_have_the_points_their_size_says(name: str, points: int) -> None:
    assert read_scan(CLOUDS / name).shape == (points, 4)


@pytest.mark.parametrize('compressed', [False, True])
@pytest.mark.parametrize('ascii_text', [False, True])
@pytest.mark.parametrize('suffix', ['.pcd', '.ply'])
def test_open3d_and_we_read_the_same_points(
    tmp_path: Path, suffix: str, ascii_text: bool, compressed: bool
) -> None:
    open3d = pytest.importorskip('open3d', exc_type=ImportError)
    xyz = np.random.default_rng(0).normal(size=(500, 3)).round(2).repeat(3, axis=0)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz))
    path = tmp_path / f'a{suffix}'
    open3d.io.write_point_cloud(str(path), cloud, write_ascii=ascii_text, compressed=compressed)
    oracle = np.asarray(open3d.io.read_point_cloud(str(path)).points)
    np.testing.assert_allclose(read_scan(path)[:, :3], oracle, atol=1e-6)

# SPDX-License-Identifier: Apache-2.0
"""Clouds that cannot be, and 2,000 random ones: refused with a sentence, or read right."""

from __future__ import annotations

from array import array
from dataclasses import replace
import struct
from typing import Any

from cloud_messages import (
    answers,
    CODES,
    F32,
    F64,
    FakeCloud,
    FakeField,
    I16,
    LAYOUTS,
    pack,
    POINTS,
    U8,
    U16,
)
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from lidar_kd.cloud import (
    Cloud,
    decode,
    encode_labeled,
    encode_segmented,
    MalformedCloud,
    select,
)
from lidar_kd.labels import SEMANTICKITTI

GOOD = pack('velodyne', POINTS, height=3)
FIELDS = GOOD.fields
HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'fields': FIELDS[1:]}, "no field 'x' among y, z, intensity, ring, time"),
        ({'fields': []}, "no field 'x' among none"),
        ({'fields': [*FIELDS, FIELDS[0]]}, 'each needs a name, and one that no other has'),
        ({'fields': [*FIELDS, FakeField('', 0, U8)]}, 'each needs a name'),
        ({'fields': [*FIELDS, FakeField('odd', 0, 9)]}, "'odd' has the unknown datatype 9"),
        (
            {'fields': [*FIELDS, FakeField('odd', 21, U16)]},
            "'odd' ends at byte 23 of a point of 22",
        ),
        ({'fields': [*FIELDS, FakeField('odd', HUGE, U16)]}, "'odd' ends at byte"),
        ({'fields': [*FIELDS, FakeField('odd', 0, F64, HUGE)]}, "'odd' ends at byte"),
        ({'fields': [FakeField('x', 0, I16), *FIELDS[1:]]}, "'x' is no single FLOAT32"),
        ({'fields': [FakeField('x', 0, F32, 2), *FIELDS[1:]]}, "'x' is no single FLOAT32"),
        ({'point_step': 0}, 'ends at byte 4 of a point of 0 bytes'),
        ({'point_step': HUGE}, 'points have at most 65536 bytes'),
        ({'width': HUGE, 'height': HUGE}, r'264 bytes of data are no 4294967295 x 4294967295'),
        ({'width': 5}, '264 bytes of data are no 3 x 5 points of 22 bytes'),
        ({'width': 0}, '264 bytes of data are no 3 x 0 points'),
        ({'width': -4, 'height': -3}, 'neither may be negative'),
        ({'data': GOOD.data[:-1]}, '263 bytes of data are no 3 x 4 points'),
        ({'data': GOOD.data + array('B', [0])}, '265 bytes of data are no'),
        ({'data': array('B')}, '0 bytes of data are no'),
        ({'data': [1, 2, 3]}, 'data are no bytes'),
    ],
)
def test_a_malformed_cloud_is_refused_with_a_sentence(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(MalformedCloud, match=sentence) as caught:
        decode(replace(GOOD, **changes))
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize('row_step', [0, 1, 88, HUGE])
def test_a_wrong_row_step_does_no_harm_where_rows_are_not_padded(row_step: int) -> None:
    cloud = decode(replace(GOOD, row_step=row_step), intensity_scale=1.0)
    np.testing.assert_array_equal(cloud.points, np.array(POINTS, np.float32))


numbers = st.one_of(st.integers(0, 40), st.sampled_from([255, 2**16, 2**31 - 1, 2**31, HUGE]))
hostile_fields = st.builds(
    FakeField,
    name=st.sampled_from(['x', 'y', 'z', 'intensity', 'ring', 'label', 'rgb', '', 'f0', '\u00e4']),
    offset=numbers,
    datatype=st.sampled_from([*range(10), F32, F32, 255]),
    count=st.sampled_from([0, 1, 1, 1, 2, 3, HUGE]),
)
random_clouds = st.builds(
    FakeCloud,
    fields=st.lists(hostile_fields, max_size=8),
    height=numbers,
    width=numbers,
    point_step=numbers,
    row_step=numbers,
    is_bigendian=st.booleans(),
    data=st.binary(max_size=300).map(lambda content: array('B', content)),
)


@st.composite
def damaged_clouds(draw: st.DrawFn) -> FakeCloud:
    """Good ones in which up to two things are wrong, or only different."""
    height = draw(st.sampled_from([1, 3]))
    message = pack(
        draw(st.sampled_from(sorted(LAYOUTS))),
        POINTS[: draw(st.sampled_from([0, 3, 12]))],
        height=height,
        padding=draw(st.sampled_from([0, 0, 5])),
        big=draw(st.booleans()),
    )
    for _ in range(draw(st.integers(0, 2))):
        damage(message, draw)
    return message


def damage(message: FakeCloud, draw: st.DrawFn) -> None:
    what = draw(
        st.sampled_from(['sizes', 'field', 'drop', 'repeat', 'flip', 'flip', 'cut', 'flood'])
    )
    if what == 'sizes':
        name = draw(st.sampled_from(['height', 'width', 'point_step', 'row_step']))
        setattr(message, name, draw(numbers))
    elif what == 'field' and message.fields:
        name = draw(st.sampled_from(['offset', 'datatype', 'count']))
        setattr(draw(st.sampled_from(message.fields)), name, draw(numbers))
    elif what == 'drop' and message.fields:
        message.fields.remove(draw(st.sampled_from(message.fields)))
    elif what == 'repeat':
        message.fields.append(draw(hostile_fields))
    elif what == 'flip':
        message.is_bigendian = not message.is_bigendian
    elif what == 'cut':
        message.data = message.data[: draw(st.integers(0, len(message.data)))]
    elif what == 'flood':  # 0xff everywhere is NaN in every float
        message.data = array('B', b'\xff' * len(message.data))


def read_slowly(message: FakeCloud, name: str) -> list[float]:
    """A field's values, found by the definition of PointCloud2."""
    found = next(each for each in message.fields if each.name == name)
    code = ('>' if message.is_bigendian else '<') + CODES[found.datatype]
    packed = message.width * message.point_step
    padded = len(message.data) != message.height * packed
    row_step = message.row_step if padded else packed
    return [
        struct.unpack_from(
            code, message.data, row * row_step + column * message.point_step + found.offset
        )[0]
        for row in range(message.height)
        for column in range(message.width)
    ]


def check_all_outputs(message: FakeCloud, cloud: Cloud) -> None:
    """The points are those of the definition, and the outputs can be read again."""
    with np.errstate(over='ignore'):
        expected = [np.array(read_slowly(message, name)).astype(np.float32) for name in 'xyz']
    np.testing.assert_array_equal(cloud.points[:, :3], np.stack(expected, 1))
    labels, probability, entropy = answers(len(cloud))
    segmented = decode(encode_segmented(cloud, labels, probability, entropy))
    labeled = decode(encode_labeled(cloud, labels, SEMANTICKITTI))
    valid = decode(select(cloud, np.ones(len(cloud), bool)))
    np.testing.assert_array_equal(segmented.points[:, :3], cloud.points[:, :3])
    np.testing.assert_array_equal(labeled.points, cloud.points)
    np.testing.assert_array_equal(labeled.rows['label'], labels)
    np.testing.assert_array_equal(valid.points[:, :3], cloud.points[cloud.valid, :3])


@settings(
    max_examples=2000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(message=st.one_of(random_clouds, damaged_clouds(), damaged_clouds(), damaged_clouds()))
def test_hostile_clouds_are_refused_or_read_right_and_good_ones_between_them_too(
    message: FakeCloud,
) -> None:
    try:
        cloud = decode(message)
    except MalformedCloud:
        pass  # refused
    else:
        if len(cloud):
            check_all_outputs(message, cloud)
    good = decode(GOOD, intensity_scale=1.0)
    np.testing.assert_array_equal(good.points, np.array(POINTS, np.float32))

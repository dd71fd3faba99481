# SPDX-License-Identifier: Apache-2.0
"""The label tables agree with the published maps and name what they do not know."""

import json

import numpy as np
import pytest

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import ClassTable, IGNORE, NUSCENES, SEMANTICKITTI, table

TABLES = pytest.mark.parametrize('classes', [SEMANTICKITTI, NUSCENES], ids=lambda t: t.name)

# The official numbering starts at 1 and keeps 0 for "ignored"; ours is that minus 1.
OFFICIAL = {
    'semantickitti': {
        0: (0, 1, 52, 99),
        1: (10, 252),
        2: (11,),
        3: (15,),
        4: (18, 258),
        5: (13, 16, 20, 256, 257, 259),
        6: (30, 254),
        7: (31, 253),
        8: (32, 255),
        9: (40, 60),
        10: (44,),
        11: (48,),
        12: (49,),
        13: (50,),
        14: (51,),
        15: (70,),
        16: (71,),
        17: (72,),
        18: (80,),
        19: (81,),
    },
    'nuscenes': {
        0: (0, 1, 5, 7, 8, 10, 11, 13, 19, 20, 29, 31),
        1: (9,),
        2: (14,),
        3: (15, 16),
        4: (17,),
        5: (18,),
        6: (21,),
        7: (2, 3, 4, 6),
        8: (12,),
        9: (22,),
        10: (23,),
        11: (24,),
        12: (25,),
        13: (26,),
        14: (27,),
        15: (28,),
        16: (30,),
    },
}


@TABLES
def test_every_raw_id_maps_to_the_official_class_minus_one(classes: ClassTable) -> None:
    for official, raw_ids in OFFICIAL[classes.name].items():
        expected = IGNORE if official == 0 else official - 1
        assert classes.to_train(np.array(raw_ids)).tolist() == [expected] * len(raw_ids)


@TABLES
def test_every_raw_id_of_the_table_is_an_official_one(classes: ClassTable) -> None:
    official = {raw for ids in OFFICIAL[classes.name].values() for raw in ids}
    assert set(np.flatnonzero(classes.lut != 254).tolist()) == official


def test_the_benchmarks_have_nineteen_and_sixteen_classes() -> None:
    assert (SEMANTICKITTI.num_classes, NUSCENES.num_classes) == (19, 16)


def test_semantickitti_train_ids_become_the_submission_ids() -> None:
    submission = '10 11 15 18 20 30 31 32 40 44 48 49 50 51 70 71 72 80 81'
    raw = SEMANTICKITTI.to_raw(np.arange(19, dtype=np.uint8))
    assert raw.dtype == np.uint32
    assert raw.tolist() == [int(word) for word in submission.split()]


@TABLES
def test_train_ids_survive_the_way_to_raw_ids_and_back(classes: ClassTable) -> None:
    train = np.array([*range(classes.num_classes), IGNORE], np.uint8)
    assert classes.to_train(classes.to_raw(train)).tolist() == train.tolist()


@TABLES
def test_an_unanswered_point_becomes_raw_id_zero(classes: ClassTable) -> None:
    assert classes.to_raw(np.array([IGNORE], np.uint8)).tolist() == [0]


def test_semantickitti_instance_ids_in_the_upper_bits_are_ignored() -> None:
    # 7 << 16 | 252 = instance 7 of "moving-car", which is train id 0
    raw = np.array([7 << 16 | 252, 65535 << 16 | 81], np.uint32)
    assert SEMANTICKITTI.to_train(raw).tolist() == [0, 18]


def test_nuscenes_ids_have_no_instance_bits() -> None:
    with pytest.raises(DataError, match='not in the label table'):
        NUSCENES.to_train(np.array([7 << 16 | 17], np.uint32))


def test_an_unknown_raw_id_is_named_with_its_file_and_never_mapped() -> None:
    with pytest.raises(DataError, match=r'000001\.label: raw label ids 7, 200 \(3 points\)'):
        SEMANTICKITTI.to_train(np.array([10, 7, 7, 200]), source='000001.label')


def test_labels_that_are_not_integers_are_refused() -> None:
    with pytest.raises(DataError, match='must be integers'):
        SEMANTICKITTI.to_train(np.array([10.0]))


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_raw_labels_of_any_integer_type_are_translated(dtype: type) -> None:
    assert SEMANTICKITTI.to_train(np.array([81, 0], dtype)).tolist() == [18, IGNORE]


def test_an_empty_scan_has_empty_labels() -> None:
    assert SEMANTICKITTI.to_train(np.zeros(0, np.uint32)).shape == (0,)


def test_autoware_ids_follow_its_enumeration_and_unanswered_is_invalid() -> None:
    train = np.array([SEMANTICKITTI.names.index('car'), SEMANTICKITTI.names.index('road'), IGNORE])
    assert SEMANTICKITTI.to_autoware(train.astype(np.uint8)).tolist() == [0, 8, 255]
    bus = np.array([NUSCENES.names.index('bus')], np.uint8)
    assert NUSCENES.to_autoware(bus).tolist() == [2]


@TABLES
def test_autoware_ids_are_ones_that_autoware_knows(classes: ClassTable) -> None:
    assert set(classes.autoware_ids) <= set(range(12))


@TABLES
def test_every_class_is_either_ground_or_obstacle(classes: ClassTable) -> None:
    ground, obstacle = classes.group_ids('ground'), classes.group_ids('obstacle')
    both = sorted([*ground.tolist(), *obstacle.tolist()])
    assert both == list(range(classes.num_classes))


@TABLES
def test_the_eight_groups_exist(classes: ClassTable) -> None:
    expected = {'ground', 'obstacle', 'vehicle', 'vulnerable', 'vegetation', 'structure'}
    assert set(classes.groups) == expected | {'movable', 'static'}


@TABLES
def test_every_class_is_either_movable_or_static(classes: ClassTable) -> None:
    both = [*classes.group_ids('movable').tolist(), *classes.group_ids('static').tolist()]
    assert sorted(both) == list(range(classes.num_classes))


def test_movable_are_the_things_of_both_benchmarks() -> None:
    # SemanticKITTI: car to motorcyclist; nuScenes: barrier to truck, as its panoptic task has them
    assert SEMANTICKITTI.group_ids('movable').tolist() == list(range(8))
    assert NUSCENES.group_ids('movable').tolist() == list(range(10))


def test_a_table_stored_before_these_groups_has_them_all_the_same() -> None:
    plain = SEMANTICKITTI.to_dict()
    del plain['groups']['movable'], plain['groups']['static']
    assert ClassTable.from_dict(plain) == SEMANTICKITTI


def test_group_ids_are_train_ids() -> None:
    # road 8, parking 9, sidewalk 10, other-ground 11, terrain 16
    assert SEMANTICKITTI.group_ids('ground').tolist() == [8, 9, 10, 11, 16]


def test_an_unknown_group_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ground'"):
        SEMANTICKITTI.group_ids('grond')


def test_the_hard_classes_leave_out_the_car() -> None:
    # bicycle 1, motorcycle 2, truck 3, other-vehicle 4, person 5, bicyclist 6, motorcyclist 7
    assert SEMANTICKITTI.hard_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]


@TABLES
def test_colours_differ_and_stand_out_from_a_dark_background(classes: ClassTable) -> None:
    colours = classes.colour(np.array([*range(classes.num_classes), IGNORE], np.uint8))
    distances = np.linalg.norm(colours[:, None].astype(float) - colours[None], axis=-1)
    assert distances[~np.eye(len(colours), dtype=bool)].min() > 30
    luminance = colours @ np.array([0.299, 0.587, 0.114])
    assert luminance.min() > 55


@TABLES
def test_colours_are_three_bytes_per_class_and_read_only(classes: ClassTable) -> None:
    assert classes.colours.shape == (classes.num_classes, 3)
    assert classes.colours.dtype == np.uint8
    assert not classes.colours.flags.writeable


@TABLES
def test_a_table_survives_json(classes: ClassTable) -> None:
    assert ClassTable.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ({'names': ['a', 'a']}, 'names a class twice'),
        ({'palette': [[1, 2, 3]]}, 'one palette, raw_ids and autoware_ids entry per class'),
        ({'palette': [[1, 2, 3], [1, 2, 256]]}, r'within 0\.\.255'),
        ({'palette': [[1, 2], [1, 2, 3]]}, r'palette\.0\.2: Field required'),
        ({'raw_ids': [[1], [1]]}, 'distinct raw ids'),
        ({'raw_ids': [[1], []]}, 'at least one raw id'),
        ({'raw_ids': [[1], [70_000]]}, 'distinct raw ids within'),
        ({'groups': {'ground': ['c']}}, "has no class 'c'"),
        ({'names': []}, 'has 0 classes'),
        ({'shades': []}, 'shades: Unexpected keyword argument'),
    ],
)
def test_a_wrong_table_says_what_is_wrong(change: dict[str, object], sentence: str) -> None:
    plain = {
        'name': 'toy',
        'names': ['a', 'b'],
        'palette': [[1, 2, 3], [4, 5, 6]],
        'raw_ids': [[1], [2]],
        'ignored_raw_ids': [0],
        'autoware_ids': [0, 1],
        'groups': {'ground': ['a']},
    }
    assert ClassTable.from_dict(plain).names == ('a', 'b')
    with pytest.raises(ConfigError, match=sentence):
        ClassTable.from_dict(plain | change)


def test_tables_are_found_by_name() -> None:
    assert table('semantickitti') is SEMANTICKITTI
    assert table('nuscenes') is NUSCENES


def test_an_unknown_table_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'semantickitti'"):
        table('semantic-kitti')

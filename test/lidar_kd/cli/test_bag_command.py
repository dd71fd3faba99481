# SPDX-License-Identifier: Apache-2.0
"""lidar-kd-bag: a labelled bag has all that was recorded, and labels."""

from __future__ import annotations

from pathlib import Path
import sqlite3
from typing import Any

import numpy as np
import pytest
from tiny import write_bundle

pytest.importorskip('rosbags.rosbag2', reason='needs rosbags')
from recorded_drive import (
    CLOUDS,
    fill_message,
    list_messages,
    read_cloud,
    read_contents,
    read_descriptions,
    START_NS,
    STORE,
    TYPES,
    write_drive,
)
from rosbags.rosbag2 import Writer
import yaml

from lidar_kd.cli.bag import main
from lidar_kd.cloud import decode
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.ros.replay.source import open_source
from lidar_kd.scans.bags import POINT_CLOUD
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor import EACH_ALONE

FEW = 14


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp('bundle') / 'tiny.safetensors')


def label(bag: Path, out: Path, bundle: Path, *words: str) -> int:
    return main([str(bag), str(out), '--bundle', str(bundle), '--precision', 'float32', *words])


def facts_of(bag: Path) -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load((bag / 'metadata.yaml').read_text())
    return facts['rosbag2_bagfile_information']


@pytest.mark.parametrize('version', [8, 9])
@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_all_other_topics_are_copied_as_they_are(
    storage: str, version: int, bundle: Path, tmp_path: Path
) -> None:
    bag = write_drive(tmp_path / 'drive', FEW, storage, version)
    assert label(bag, tmp_path / 'out', bundle) == 0
    before, after = read_contents(bag), read_contents(tmp_path / 'out')
    assert before.keys() == after.keys() == TYPES.keys()
    assert {t: m for t, m in after.items() if t != CLOUDS} == {
        t: m for t, m in before.items() if t != CLOUDS
    }
    assert read_descriptions(bag) == read_descriptions(tmp_path / 'out')
    ours = facts_of(tmp_path / 'out')
    assert (ours['storage_identifier'], ours['version']) == (storage, version)
    assert ours['message_count'] == 1 + 5 * FEW
    assert ours['custom_data']['robot'] == 'number five'
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('out')] == ['out']


def test_clouds_keep_header_fields_and_order_and_gain_labels(bundle: Path, tmp_path: Path) -> None:
    bag = write_drive(tmp_path / 'drive', FEW)
    assert label(bag, tmp_path / 'out', bundle) == 0
    before, after = (read_contents(each)[CLOUDS] for each in (bag, tmp_path / 'out'))
    assert [stamp for stamp, _ in before] == [stamp for stamp, _ in after]
    segmenter = Segmenter(bundle, precision='float32', sensor=EACH_ALONE)
    for (_, recorded), (_, labelled) in zip(before, after):
        header = 4 + 8 + 4 + len('front_lidar') + 1  # CDR's, the stamp, a length, the text
        assert labelled[:header] == recorded[:header]
        old, new = read_cloud(recorded), read_cloud(labelled)
        assert (new.height, new.width) == (old.height, old.width)
        if not old.width:
            continue
        rows = decode(old, intensity_scale=1 / 255)
        points = np.frombuffer(new.data, f'V{new.point_step}')
        step = old.point_step
        assert points.getfield(f'V{step}').tobytes() == rows.rows.tobytes()
        told = points.getfield('u1', step)
        assert (told == segmenter.segment(rows.points).labels).all()


def test_the_replay_reads_the_labelled_bag(bundle: Path, tmp_path: Path) -> None:
    bag = write_drive(tmp_path / 'drive', FEW, 'mcap')
    assert label(bag, tmp_path / 'out', bundle) == 0
    source = open_source(str(tmp_path / 'out'))
    assert len(source) == FEW
    names = [field.name for field in source.read(0).payload.fields]
    assert names == ['x', 'y', 'z', 'intensity', 'ring', 'time', 'label', 'rgb']


def test_more_outputs_go_to_topics_of_their_own(bundle: Path, tmp_path: Path) -> None:
    bag = write_drive(tmp_path / 'drive', FEW)
    words = ('--keep', '--outputs', 'labeled', 'segmented', 'static', 'car')
    assert label(bag, tmp_path / 'out', bundle, *words) == 0
    before, after = read_contents(bag), read_contents(tmp_path / 'out')
    assert after[CLOUDS] == before[CLOUDS]
    added = [f'{CLOUDS}/{name}' for name in ('labeled', 'segmented', 'static', 'car')]
    assert after.keys() == {*before, *added}
    movable = set(SEMANTICKITTI.group_ids('movable').tolist())
    for number in range(FEW):
        labeled, segmented, static, car = (read_cloud(after[t][number][1]) for t in added)
        count = labeled.height * labeled.width
        step = labeled.fields[-2].offset
        labels = np.frombuffer(labeled.data, f'V{labeled.point_step}').getfield('u1', step)
        words_of = np.frombuffer(segmented.data, 'V24') if count else np.zeros(0, 'V24')
        assert (words_of.getfield('u1', 12) == labels).all()
        sure = words_of.getfield('<f4', 16)
        assert ((sure > 1 / 19) & (sure <= 1)).all()
        assert static.width == sum(each not in movable for each in labels.tolist())
        assert car.width == int((labels == 0).sum())
    qos = read_descriptions(tmp_path / 'out')
    assert qos[added[1]][3] == qos[CLOUDS][3]


def test_without_labeled_the_recorded_cloud_stays(bundle: Path, tmp_path: Path) -> None:
    bag = write_drive(tmp_path / 'drive', 3)
    assert label(bag, tmp_path / 'out', bundle, '--outputs', 'ground') == 0
    assert read_contents(tmp_path / 'out')[CLOUDS] == read_contents(bag)[CLOUDS]


def test_the_storage_can_be_changed(bundle: Path, tmp_path: Path) -> None:
    bag = write_drive(tmp_path / 'drive', FEW)
    assert label(bag, tmp_path / 'out', bundle, '--storage', 'mcap') == 0
    assert facts_of(tmp_path / 'out')['storage_identifier'] == 'mcap'
    before, after = read_contents(bag), read_contents(tmp_path / 'out')
    assert {**after, CLOUDS: 0} == {**before, CLOUDS: 0}


def write_two(path: Path) -> Path:
    """A bag with two topics of clouds; the second one's middle cloud contradicts itself."""
    with Writer(path, version=8) as writer:
        topics = [
            writer.add_connection(t, POINT_CLOUD, typestore=STORE) for t in ('/a', '/b/points')
        ]
        messages = [m for topic, _, m in list_messages(4) if topic == CLOUDS][:3]
        for number, message in enumerate(messages):
            writer.write(topics[0], START_NS + number, STORE.serialize_cdr(message, POINT_CLOUD))
            if number == 1:
                message.height += 1
            writer.write(topics[1], START_NS + number, STORE.serialize_cdr(message, POINT_CLOUD))
    return path


def test_chosen_topics_are_labelled_and_others_stay(bundle: Path, tmp_path: Path) -> None:
    bag = write_two(tmp_path / 'drive')
    assert label(bag, tmp_path / 'out', bundle, '--topics', '/a') == 0
    before, after = read_contents(bag), read_contents(tmp_path / 'out')
    assert after['/b/points'] == before['/b/points']
    assert all(read_cloud(content).fields[-1].name == 'rgb' for _, content in after['/a'])


def test_a_cloud_that_contradicts_itself_stays_as_recorded_and_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_two(tmp_path / 'drive')
    assert label(bag, tmp_path / 'out', bundle) == 2
    error = capsys.readouterr().err
    assert 'cloud 1 on /b/points is left as recorded: ' in error
    assert 'the message is cut off or its sizes are wrong' in error
    before, after = (read_contents(each)['/b/points'] for each in (bag, tmp_path / 'out'))
    assert [new == old for new, old in zip(after, before)] == [False, True, False]
    assert len(after) == 3


def test_a_complete_bag_is_left_alone_and_another_one_is_not_overwritten(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_drive(tmp_path / 'drive', 3)
    assert label(bag, tmp_path / 'out', bundle) == 0
    stamp = (tmp_path / 'out' / 'out.db3').stat().st_mtime_ns
    assert label(bag, tmp_path / 'out', bundle) == 0
    assert 'out: is complete' in capsys.readouterr().out
    assert label(bag, tmp_path / 'out', bundle, '--keep') == 2
    assert 'out: exists already; remove it or choose another output' in capsys.readouterr().err
    assert (tmp_path / 'out' / 'out.db3').stat().st_mtime_ns == stamp
    assert label(bag, bag, bundle) == 2


def test_answers_of_two_networks_do_not_meet(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_drive(tmp_path / 'drive', 3)
    (tmp_path / 'out.parts').mkdir()
    (tmp_path / 'out.parts' / 'origin.txt').write_text('another network')
    assert label(bag, tmp_path / 'out', bundle) == 2
    assert 'was begun with another network, recording or other options' in capsys.readouterr().err


def test_an_old_bag_without_definitions_stays_without(bundle: Path, tmp_path: Path) -> None:
    """As Humble writes it, with a type of somebody's own."""
    bag = write_drive(tmp_path / 'drive', 3)
    with sqlite3.connect(bag / 'drive.db3') as base:
        base.execute('DROP TABLE message_definitions')
        base.execute('DROP TABLE schema')
        base.execute('ALTER TABLE topics DROP COLUMN type_description_hash')
        base.execute("UPDATE topics SET type = 'own_msgs/msg/Own' WHERE name = '/imu'")
    facts = facts_of(bag)
    facts['version'] = 5
    for topic in facts['topics_with_message_count']:
        del topic['topic_metadata']['type_description_hash']
        if topic['topic_metadata']['name'] == '/imu':
            topic['topic_metadata']['type'] = 'own_msgs/msg/Own'
    text = yaml.safe_dump({'rosbag2_bagfile_information': facts})
    (bag / 'metadata.yaml').write_text(text)
    assert label(bag, tmp_path / 'out', bundle) == 0
    before, after = read_contents(bag), read_contents(tmp_path / 'out')
    assert {**after, CLOUDS: 0} == {**before, CLOUDS: 0}
    assert read_cloud(after[CLOUDS][0][1]).fields[-2].name == 'label'
    described = read_descriptions(tmp_path / 'out')['/imu']
    assert (described[0], described[1].data) == ('own_msgs/msg/Own', '')
    assert label(bag, tmp_path / 'm', bundle, '--storage', 'mcap') == 2


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--topics', '/rear'], "no clouds on '/rear'; choose among /front/points"),
        (['--outputs', 'cars'], "has no group 'cars'"),
        (['--bundle', 'none.safetensors'], 'none.safetensors'),
    ],
)
def test_wrong_options_are_told_in_one_sentence(
    words: list[str], sentence: str, bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    bag = write_drive(tmp_path / 'drive', 2)
    assert label(bag, tmp_path / 'out', bundle, *words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / 'out').exists()


def test_a_topic_that_is_there_already_is_not_written_twice(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer(tmp_path / 'drive', version=8) as writer:
        for topic in ('/a', '/a/labeled'):
            connection = writer.add_connection(topic, POINT_CLOUD, typestore=STORE)
            cloud = next(m for topic, _, m in list_messages(1) if topic == CLOUDS)
            writer.write(connection, 1, STORE.serialize_cdr(cloud, POINT_CLOUD))
    words = ('--topics', '/a', '--keep')
    assert label(tmp_path / 'drive', tmp_path / 'out', bundle, *words) == 2
    assert 'has /a/labeled already' in capsys.readouterr().err
    assert label(tmp_path / 'drive', tmp_path / 'out', bundle) == 0


def test_a_cloud_without_fields_is_no_reason_to_stop(bundle: Path, tmp_path: Path) -> None:
    from cloud_messages import FakeCloud

    with Writer(tmp_path / 'drive', version=8) as writer:
        connection = writer.add_connection('/a', POINT_CLOUD, typestore=STORE)
        for cloud in (FakeCloud([]), FakeCloud([], width=3, point_step=0)):
            message = fill_message(cloud, START_NS)
            writer.write(connection, START_NS, STORE.serialize_cdr(message, POINT_CLOUD))
    assert label(tmp_path / 'drive', tmp_path / 'out', bundle) == 2
    assert len(read_contents(tmp_path / 'out')['/a']) == 2

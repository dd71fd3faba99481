# SPDX-License-Identifier: Apache-2.0
"""A bag with labelled clouds: answers are kept one by one, the bag is written when all are there.

Neither storage of rosbag2 survives a crash in the middle, so nothing is ever appended: the whole
bag is written below OUT.parts/ and renamed. Where OUT exists, it is complete.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import fcntl
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.answers import KeptAnswers
from lidar_kd.cli.console import Console
from lidar_kd.cli.offline import CloudAnswer, CloudLabeller, UnreadableClouds
from lidar_kd.cloud import Cloud, encode_labeled, encode_segmented, MalformedCloud, Payload, select
from lidar_kd.errors import ConfigError, DataError, prepare_folder, write_atomically, writing
from lidar_kd.labels import ClassTable
from lidar_kd.scans.bags import POINT_CLOUD
from lidar_kd.scans.recording import Recorded, Recording
from lidar_kd.scans.rewriting import BagRewriter, read_metadata, rewriting

LABELED, SEGMENTED = 'labeled', 'segmented'
_NOTE = 'lidar_kd'  # in the metadata of what was written here


@dataclass(frozen=True, kw_only=True)
class BagPlan:
    """What is written where."""

    out: Path
    storage: str
    outputs: tuple[str, ...]  # labeled, segmented, groups or classes of the label table
    keeps_recorded: bool  # the labelled cloud goes to a topic of its own
    origin: str  # the recording, the network and all else that the answers depend on

    @property
    def parts(self) -> Path:
        return self.out.with_name(f'{self.out.name}.parts')

    @property
    def replaces(self) -> bool:
        """Whether labelled clouds stand in the place of the recorded ones."""
        return LABELED in self.outputs and not self.keeps_recorded

    def topic_of(self, recorded: str, output: str) -> str:
        return recorded if output == LABELED and self.replaces else f'{recorded}/{output}'

    def clear(self) -> None:
        """Removes what only an unfinished bag needs."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def is_done(self) -> bool:
        """Raises DataError where something else is in the way."""
        if not self.out.exists():
            return False
        notes = read_metadata(self.out).get('custom_data') or {}
        if notes.get(_NOTE) != self.origin:
            raise DataError(f'{self.out}: exists already; remove it or choose another output.')
        return True


class LabelledBag:
    """The destination of clouds that become a bag."""

    def __init__(self, recording: Recording, plan: BagPlan, table: ClassTable) -> None:
        self._recording, self._plan, self._table = recording, plan, table
        self._masks = {
            name: find_classes(name, table)
            for name in plan.outputs
            if name not in (LABELED, SEGMENTED)
        }
        _check_topics(recording, plan)
        claim_folder(prepare_folder(plan.parts), plan.origin)
        self._answers = KeptAnswers(plan.parts / 'answers', complete=SEGMENTED in plan.outputs)
        self.has = self._answers.has
        self.unreadable = UnreadableClouds(plan.parts / 'unreadable', 'is left as recorded')
        self._data: dict[str, array[int]] = {}  # of the last message of each topic, to reuse

    def keep(self, recorded: Recorded, labeller: CloudLabeller) -> None:
        assert recorded.key is not None
        _, cloud = labeller.decode(recorded)
        answer = labeller.label(cloud, recorded.key)
        self._answers.keep(recorded.key, recorded.content, answer)

    def finish(self, labeller: CloudLabeller, console: Console) -> None:
        """One process writes the bag; those that come at the same time wait for it."""
        with _only_one(self._plan.parts):
            if not self._plan.out.exists():
                self._write_bag(labeller, console)
            self._plan.clear()

    def _write_bag(self, labeller: CloudLabeller, console: Console) -> None:
        out, size = self._plan.out, self._recording.size
        folder = self._plan.parts / 'written' / out.name  # rosbag2 names the files after it
        shutil.rmtree(folder.parent, ignore_errors=True)  # what a killed process left
        notes = {_NOTE: self._plan.origin}
        try:
            with (
                writing(out),
                console.progress(size, 'write', unit='messages') as step,
                rewriting(self._recording, folder, self._plan.storage, notes) as bag,
            ):
                for recorded in self._count(self._recording.messages()):
                    self._pass_on(recorded, bag, labeller)
                    step()
            with writing(out):
                folder.rename(out)
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)  # a full disk gets its space back

    def _count(self, messages: Iterator[Recorded]) -> Iterator[Recorded]:
        """Raises DataError where they are not as many as they should be."""
        seen = 0
        for seen, recorded in enumerate(messages, 1):  # noqa: B007
            yield recorded
        path = self._recording.path
        if seen != self._recording.size:
            raise DataError(
                f'{path}: its metadata.yaml counts {self._recording.size} messages, {seen} can be '
                f'read; run ros2 bag reindex {path}.'
            )

    def _pass_on(self, recorded: Recorded, bag: BagRewriter, labeller: CloudLabeller) -> None:
        outputs = {} if recorded.key is None else self._label(recorded, labeller)
        if not (outputs and self._plan.replaces):
            bag.write(recorded.connection, recorded.received_ns, recorded.content)
        for topic, content in outputs.items():
            bag.write(recorded.connection, recorded.received_ns, content, topic)

    def _label(self, recorded: Recorded, labeller: CloudLabeller) -> dict[str, Any]:
        """Topic -> message; none for a cloud that cannot be read, which stays as recorded."""
        assert recorded.key is not None
        try:
            message, cloud = labeller.decode(recorded)
        except MalformedCloud:
            return {}
        answer = self._answers.find(recorded.key, recorded.content, len(cloud))
        answer = answer or labeller.label(cloud, recorded.key)
        store = self._recording.reader.typestore
        return {
            self._plan.topic_of(recorded.key.topic, name): pack_message(
                store, message.header, self._encode(name, cloud, answer)
            )
            for name in self._plan.outputs
        }

    def _encode(self, name: str, cloud: Cloud, answer: CloudAnswer) -> Payload:
        out = self._data.get(name)
        if name == LABELED:
            payload = encode_labeled(cloud, answer.labels, self._table, out=out)
        elif name == SEGMENTED:
            payload = encode_segmented(
                cloud, answer.labels, answer.probability, answer.entropy, out=out
            )
        else:
            payload = select(cloud, self._masks[name][answer.labels], out=out)
        self._data[name] = payload.data
        return payload


def find_classes(name: str, table: ClassTable) -> NDArray[np.bool_]:
    """(256,) which labels a group, or a class, has."""
    chosen = np.zeros(256, np.bool_)
    chosen[table.names.index(name) if name in table.names else table.group_ids(name)] = True
    return chosen


def pack_message(store: Any, header: Any, payload: Payload) -> Any:
    """A PointCloud2 in CDR, little endian; `store`: rosbags' types of the recording."""
    field = store.types['sensor_msgs/msg/PointField']
    message = store.types[POINT_CLOUD](
        header=header,
        height=payload.height,
        width=payload.width,
        fields=[field(**each._asdict()) for each in payload.fields],
        is_bigendian=payload.is_bigendian,
        point_step=payload.point_step,
        row_step=payload.row_step,
        data=np.frombuffer(payload.data, np.uint8),
        is_dense=payload.is_dense,
    )
    return store.serialize_cdr(message, POINT_CLOUD)


def claim_folder(folder: Path, origin: str) -> None:
    """Answers of two networks, or about two recordings, must not meet in one output."""
    note = folder / 'origin.txt'
    if note.is_file() and note.read_text(encoding='utf-8') != origin:
        raise ConfigError(
            f'{folder}: was begun with another network, recording or other options; remove it '
            'or choose another output.'
        )
    with writing(note), write_atomically(note) as temporary:
        temporary.write_text(origin, encoding='utf-8')


def _check_topics(recording: Recording, plan: BagPlan) -> None:
    present = set(recording.reader.topics)
    added = [plan.topic_of(topic, name) for topic in recording.topics for name in plan.outputs]
    taken = sorted(present & ({*added} - {*recording.topics}))
    if taken:
        raise DataError(
            f'{recording.path}: has {taken[0]} already; choose other --topics or --outputs.'
        )


@contextmanager
def _only_one(parts: Path) -> Iterator[None]:
    """Where the folder is gone, another process has just finished."""
    try:
        lock = (parts / 'lock').open('a')
    except FileNotFoundError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def describe_origin(recording: Recording, network: str, outputs: Sequence[str]) -> str:
    """What answers depend on, in one line; paths may change, what is there may not."""
    reader = recording.reader
    return (
        f'{reader.message_count} messages from {reader.start_time} to {reader.end_time}; '
        f'clouds of {", ".join(recording.topics)}; network {network}; {", ".join(outputs)}'
    )

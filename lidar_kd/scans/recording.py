# SPDX-License-Identifier: Apache-2.0
"""A bag from its first message to its last; the clouds of some topics are numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from lidar_kd.errors import DataError
from lidar_kd.scans.bags import open_recording, POINT_CLOUD, reading_bag


class CloudKey(NamedTuple):
    """Which cloud of a bag: its topic, and its number in order of reception."""

    topic: str
    number: int


class Recorded(NamedTuple):
    """A message as it lies in the bag; `key` is None unless it is a cloud of a chosen topic."""

    connection: Any  # rosbags'
    received_ns: int
    content: bytes
    key: CloudKey | None


class Recording:
    """Open within a `with` block; `topics` are those whose clouds are wanted, all by default."""

    def __init__(self, path: Path, topics: Sequence[str] = ()) -> None:
        self.path = path
        self._stack = ExitStack()
        self.reader = self._stack.enter_context(open_recording(path))
        try:
            self.topics = _choose_topics(path, topics, self.reader.topics)
        except DataError:
            self._stack.close()
            raise

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def is_ros1(self) -> bool:
        return not self.reader.is2

    @property
    def size(self) -> int:
        """Messages, as its metadata say."""
        return int(self.reader.message_count)

    def list_clouds(self) -> list[CloudKey]:
        """All clouds, as the metadata count them."""
        return [CloudKey(topic, n) for topic in self.topics for n in range(self.count(topic))]

    def count(self, topic: str) -> int:
        return int(self.reader.topics[topic].msgcount)

    def clouds(self) -> Iterator[Recorded]:
        """Those of the chosen topics only."""
        return self._read([c for c in self.reader.connections if c.topic in self.topics])

    def messages(self) -> Iterator[Recorded]:
        return self._read(self.reader.connections)

    def messages_of(self, kinds: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Topic and decoded message of everything that has one of these types."""
        wanted = [each for each in self.reader.connections if each.msgtype in kinds]
        for each in self._read(wanted) if wanted else ():
            yield each.connection.topic, self.decode(each)

    def decode(self, recorded: Recorded) -> Any:
        with reading_bag(self.path):
            return self.reader.deserialize(recorded.content, recorded.connection.msgtype)

    def spread(self, topic: str, most: int) -> Iterator[Any]:
        """Some decoded clouds of a topic, from all of the recording."""
        wanted = [each for each in self.reader.connections if each.topic == topic]
        span_ns = self.reader.end_time - self.reader.start_time
        for part in range(most):
            since_ns = self.reader.start_time + span_ns * part // most
            with reading_bag(self.path):
                found = next(self.reader.messages(wanted, since_ns), None)
            if found is not None:
                connection, received_ns, content = found
                yield self.decode(Recorded(connection, received_ns, content, None))

    def _read(self, wanted: Sequence[Any]) -> Iterator[Recorded]:
        seen: Counter[str] = Counter()
        with reading_bag(self.path):
            for connection, received_ns, content in self.reader.messages(wanted):
                key = None
                if connection.topic in self.topics:
                    key = CloudKey(connection.topic, seen[connection.topic])
                    seen[connection.topic] += 1
                yield Recorded(connection, received_ns, content, key)


def _choose_topics(path: Path, wanted: Sequence[str], topics: dict[str, Any]) -> list[str]:
    clouds = sorted(name for name, topic in topics.items() if topic.msgtype == POINT_CLOUD)
    if not clouds:
        others = ', '.join(sorted(topics)) or 'nothing'
        raise DataError(f'{path}: no topic with PointCloud2 (it has {others}); take another bag.')
    unknown = sorted({*wanted} - {*clouds})
    if unknown:
        raise DataError(f"{path}: no clouds on '{unknown[0]}'; choose among {', '.join(clouds)}.")
    return sorted({*wanted}) or clouds

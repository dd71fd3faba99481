# SPDX-License-Identifier: Apache-2.0
"""Recorded PointCloud2 messages, one by one, from a rosbag; needs no ROS, but rosbags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
import os
from pathlib import Path
from shlex import quote
from textwrap import shorten
from typing import Any

from lidar_kd.errors import DataError
from lidar_kd.scans.unpacking import bound_rosbags, import_zstd

POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
FILES = ('.mcap', '.db3', '.bag')
MOST_GROWTH = 100  # times what a packed file has; clouds shrink to a half or a third
_PIECE = 1 << 20
_REASON = 200  # letters of what a library says about damage


def is_bag(path: Path) -> bool:
    """A folder as `ros2 bag record` leaves it, a file of one, or a ROS 1 bag."""
    return (path / 'metadata.yaml').is_file() or path.suffix in FILES


class Bag:
    """The clouds of one topic; only the one that is asked for is in memory.

    Every process that reads opens the files for itself: file positions must not be shared.
    """

    def __init__(self, path: str | Path, topic: str = '') -> None:
        """`topic` may be left out where the bag has only one with clouds."""
        self.path = Path(path)
        self._stack = ExitStack()
        self._process = 0
        self._reader: Any = None
        self.topic = _choose_topic(self.path, topic, self._open().topics)
        with reading_bag(self.path):
            self.stamps_ns = [stamp for _, stamp, _ in self._messages()]
        if not self.stamps_ns:
            raise DataError(f'{self.path}: no cloud on {self.topic}; record it again.')

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {'_stack': ExitStack(), '_process': 0, '_reader': None}

    def read(self, index: int) -> Any:
        """The message with this number, in order of reception: PointCloud2's attributes."""
        stamp = self.stamps_ns[index]
        twins = index - self.stamps_ns.index(stamp)  # received in the same nanosecond
        with reading_bag(self.path):
            found = self._messages(stamp, stamp + 1)
            for _ in range(twins):
                next(found)
            _, _, content = next(found)
            return self._open().deserialize(content, POINT_CLOUD)

    def _messages(
        self, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[Any, int, bytes]]:
        reader = self._open()
        wanted = [each for each in reader.connections if each.topic == self.topic]
        messages: Iterator[tuple[Any, int, bytes]] = reader.messages(wanted, start_ns, stop_ns)
        return messages

    def _open(self) -> Any:
        if self._process != os.getpid():
            self._stack = ExitStack()
            self._reader = self._stack.enter_context(open_recording(self.path))
            self._process = os.getpid()
        return self._reader


@contextmanager
def open_recording(path: Path) -> Iterator[Any]:
    """rosbags' reader of a bag of any kind."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import get_typestore, Stores
    except ImportError:
        raise DataError(
            f"{path}: reading bags needs rosbags; run pip install 'lidar_kd[bags]'."
        ) from None
    if not path.exists():
        raise DataError(f'{path}: no such bag; check the path.')
    place = path if path.suffix == '.bag' or path.is_dir() else path.parent
    if place.is_dir() and not (place / 'metadata.yaml').is_file():
        raise DataError(
            f'{place}: a bag needs its metadata.yaml; run ros2 bag reindex {quote(str(place))}.'
        )
    with ExitStack() as stack:
        with reading_bag(path):
            bound_rosbags()
            _check_growth(place)
            reader = AnyReader([place], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            stack.enter_context(reader)
        yield reader


@contextmanager
def reading_bag(path: Path) -> Iterator[None]:
    """What rosbags, its storages and packers raise for damaged files has no common class."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001
        reason = shorten(str(error), _REASON, placeholder=' ...') or type(error).__name__
        raise DataError(f'{path}: the bag is damaged ({reason}); copy it again.') from None


def _check_growth(place: Path) -> None:
    """rosbags unpacks a whole file to the disk when it opens it, whatever that grows to."""
    for packed in sorted(place.glob('*.zstd')) if place.is_dir() else ():
        most, size = MOST_GROWTH * packed.stat().st_size, 0
        with import_zstd().open(packed, 'rb') as file:
            while piece := file.read(_PIECE):
                size += len(piece)
                if size > most:
                    raise DataError(
                        f'{packed}: unpacks to more than {MOST_GROWTH} times its size, which no '
                        'recording of clouds does; record it again.'
                    )


def _choose_topic(path: Path, wanted: str, topics: dict[str, Any]) -> str:
    clouds = sorted(name for name, topic in topics.items() if topic.msgtype == POINT_CLOUD)
    if not clouds:
        others = ', '.join(sorted(topics)) or 'nothing'
        raise DataError(f'{path}: no topic with PointCloud2 (it has {others}); take another bag.')
    if wanted in clouds:
        return wanted
    if wanted or len(clouds) > 1:
        problem = f"no clouds on '{wanted}'" if wanted else 'several topics with clouds'
        raise DataError(f'{path}: {problem}; choose the topic among {", ".join(clouds)}.')
    return clouds[0]

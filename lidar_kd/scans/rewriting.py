# SPDX-License-Identifier: Apache-2.0
"""A bag written anew beside another: the same topics with all that is known about them, and more.

Neither storage can be appended to after a crash; what is here is therefore either complete or
worth nothing, and whoever uses it writes to a place of its own and renames the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import os
from pathlib import Path
import sqlite3
from typing import Any, Literal

import yaml

from lidar_kd.errors import DataError
from lidar_kd.scans.recording import Recording

STORAGES = ('sqlite3', 'mcap')
_NO_HASH = 'RIHS01_' + 64 * '0'  # of a type that the bag does not define


class BagRewriter:
    """Writes messages to topics of the recording, or to others of the same type."""

    def __init__(self, writer: Any, recording: Recording) -> None:
        self._writer = writer
        self._recording = recording
        self._connections: dict[tuple[int, str], Any] = {}
        for each in recording.reader.connections:
            self._add(each, each.topic)

    def write(self, like: Any, received_ns: int, content: Any, topic: str = '') -> None:
        """`like`: the recording's connection; `topic` where it is another one."""
        name = topic or like.topic
        connection = self._connections.get((like.id, name)) or self._add(like, name)
        self._writer.write(connection, received_ns, content)

    def _add(self, like: Any, topic: str) -> Any:
        if not like.msgdef.data:
            self._pass_undefined(like)
        connection = self._connections[like.id, topic] = self._writer.add_connection(
            topic,
            like.msgtype,
            msgdef=like.msgdef.data,
            rihs01=like.digest or self._hash(like.msgtype),
            serialization_format=like.ext.serialization_format,
            offered_qos_profiles=like.ext.offered_qos_profiles,
        )
        return connection

    def _pass_undefined(self, like: Any) -> None:
        """Bags of Humble hold no definitions; what is not known is not made up."""
        if self._writer.storage_plugin.name != 'SQLITE3':
            raise DataError(
                f'{self._recording.path}: does not say what {like.msgtype} on {like.topic} is, '
                'which an mcap file must; write sqlite3.'
            )
        self._writer.added_types.add(like.msgtype)

    def _hash(self, msgtype: str) -> str:
        store = self._recording.reader.typestore
        known = msgtype in store.fielddefs
        return str(store.hash_rihs01(msgtype)) if known else _NO_HASH


@contextmanager
def rewriting(
    recording: Recording, folder: Path, storage: str, notes: Mapping[str, str]
) -> Iterator[BagRewriter]:
    """`folder` must not exist; when the block ends its files are complete and on the disk.

    notes: what the metadata say beside the recording's own.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer

    facts = read_metadata(recording.path)
    version: Literal[8, 9] = (
        9 if facts.get('version', 0) >= 9 else 8
    )  # Humble cannot read the QoS of 9
    writer = Writer(folder, version=version, storage_plugin=StoragePlugin[storage.upper()])
    for key, value in {**(facts.get('custom_data') or {}), **notes}.items():
        writer.set_custom_data(str(key), str(value))
    try:
        with writer:
            yield BagRewriter(writer, recording)
    except sqlite3.Error as error:  # its own words for a full disk
        raise OSError(0, str(error)) from None
    for path in [*folder.iterdir(), folder]:
        _flush(path)


def read_metadata(bag: Path) -> dict[str, Any]:
    """What metadata.yaml says; nothing where it cannot be read."""
    folder = bag if bag.is_dir() else bag.parent
    try:
        read = yaml.safe_load((folder / 'metadata.yaml').read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    facts = read.get('rosbag2_bagfile_information') if isinstance(read, dict) else None
    return facts if isinstance(facts, dict) else {}


def _flush(path: Path) -> None:
    """A crash right after the renaming must not leave an empty file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

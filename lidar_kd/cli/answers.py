# SPDX-License-Identifier: Apache-2.0
"""Answers about single clouds on disk, so that an interrupted command goes on where it stopped.

A file appears complete or not at all. It begins with a checksum over the message and its answer:
what is damaged, or an answer about anything else, counts as none. Files can therefore be lost or
left over, and what is made of them is the same; that also saves waiting for the disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from zlib import crc32

import numpy as np

from lidar_kd.cli.offline import CloudAnswer, name_folder
from lidar_kd.errors import writing
from lidar_kd.scans.recording import CloudKey


class KeptAnswers:
    """A folder of them; `complete` ones hold probability and entropy beside the labels."""

    def __init__(self, folder: Path, *, complete: bool) -> None:
        self._folder = folder
        self._complete = complete

    def has(self, key: CloudKey) -> bool:
        return self._place(key).is_file()

    def keep(self, key: CloudKey, content: bytes, answer: CloudAnswer) -> None:
        columns = [answer.labels]
        if self._complete:
            columns += [each.view(np.uint8) for each in (answer.probability, answer.entropy)]
        stored = np.concatenate(columns).tobytes()
        place = self._place(key)
        temporary = place.with_name(f'.{place.name}.{os.getpid()}.tmp')
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_checksum(content, stored) + stored)
            temporary.replace(place)

    def find(self, key: CloudKey, content: bytes, points: int) -> CloudAnswer | None:
        """None where there is none about this message."""
        try:
            stored = self._place(key).read_bytes()
        except OSError:
            return None
        size = points * (9 if self._complete else 1)
        if len(stored) != 4 + size or stored[:4] != _checksum(content, stored[4:]):
            return None
        labels = np.frombuffer(stored, np.uint8, points, 4)
        rest = np.full((2, points), np.nan, np.float32)
        if self._complete:
            rest = np.frombuffer(stored, '<f4', 2 * points, 4 + points).reshape(2, points)
        return CloudAnswer(labels=labels, probability=rest[0], entropy=rest[1])

    def _place(self, key: CloudKey) -> Path:
        return self._folder / name_folder(key.topic) / f'{key.number:06}'


def _checksum(content: bytes, stored: bytes) -> bytes:
    return crc32(stored, crc32(content)).to_bytes(4, 'little')

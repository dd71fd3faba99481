# SPDX-License-Identifier: Apache-2.0
"""Predictions on disk as the two benchmarks want them: where they lie and what their bytes mean.

SemanticKITTI  sequences/XX/predictions/NNNNNN.label  uint32 raw ids, object numbers << 16
nuScenes       lidarseg/SPLIT/TOKEN_lidarseg.bin      uint8 ids 1..16 of the challenge
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError, DataError, write_atomically, writing
from lidar_kd.labels import ClassTable, IGNORE
from training.data.scan import Frame, Scan, ScanSet
from training.scores.scoring import Labels

Bytes = NDArray[np.uint32] | NDArray[np.uint8]
Numbers = NDArray[np.uint32]
_MOST_OBJECTS = 0xFFFF  # of a scan


@dataclass(frozen=True)
class PredictionLayout:
    """How one benchmark stores predictions."""

    kind: str
    stored: np.dtype[np.generic]
    place: Callable[[Frame, str], str]  # of a scan, and a split; inside the folder or archive
    encode: Callable[[Labels, ClassTable], Bytes]
    decode: Callable[[Bytes, ClassTable, str], Labels]  # the text names the file in errors
    root: str  # what the places start with
    has_objects: bool  # object numbers lie in the upper 16 bits

    def read(self, data: bytes, table: ClassTable, source: str) -> Labels:
        """Train ids, 255 for 'no answer'."""
        if len(data) % self.stored.itemsize:
            raise DataError(
                f'{source}: {len(data)} bytes are no whole number of {self.stored.name} labels; '
                'the file is cut off: predict this scan again.'
            )
        return self.decode(np.frombuffer(data, self.stored), table, source)

    def write(
        self, path: Path, labels: Labels, table: ClassTable, objects: Numbers | None = None
    ) -> None:
        """objects: their numbers (N,), for a panoptic submission."""
        stored = self.encode(labels, table).astype(self.stored)
        if objects is not None:
            self.require_objects()
            if objects.max(initial=0) > _MOST_OBJECTS:
                raise DataError(f'{path}: more than {_MOST_OBJECTS} objects have no numbers here.')
            stored = (stored | objects << 16).astype(self.stored)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(path) as temporary:
                stored.tofile(temporary)

    def require_objects(self) -> None:
        if not self.has_objects:
            raise ConfigError(
                f'predictions for {self.kind} hold no object numbers; leave --panoptic out.'
            )


def _encode_raw(labels: Labels, table: ClassTable) -> Bytes:
    return table.to_raw(labels)


def _decode_raw(stored: Bytes, table: ClassTable, source: str) -> Labels:
    return table.to_train(stored, source)


def _encode_challenge(labels: Labels, table: ClassTable) -> Bytes:
    """0 is the challenge's 'ignored', which a submission must not use."""
    return np.where(labels < table.num_classes, labels + 1, 0).astype(np.uint8)


def _decode_challenge(stored: Bytes, table: ClassTable, source: str) -> Labels:
    highest = int(stored.max(initial=0))
    if highest > table.num_classes:
        raise DataError(
            f'{source}: holds id {highest}; the challenge has 1 to {table.num_classes}: '
            'map the categories to the challenge classes first.'
        )
    return np.where(stored > 0, stored.astype(np.int16) - 1, IGNORE).astype(np.uint8)


LAYOUTS = {
    'semantickitti': PredictionLayout(
        kind='semantickitti',
        stored=np.dtype('<u4'),
        place=lambda frame, split: (
            f'sequences/{frame.sequence}/predictions/{frame.scan.stem}.label'
        ),
        encode=_encode_raw,
        decode=_decode_raw,
        root='sequences',
        has_objects=True,
    ),
    'nuscenes': PredictionLayout(
        kind='nuscenes',
        stored=np.dtype('u1'),
        place=lambda frame, split: (
            f'lidarseg/{split}/{frame.name.rpartition("/")[2]}_lidarseg.bin'
        ),
        encode=_encode_challenge,
        decode=_decode_challenge,
        root='lidarseg',
        has_objects=False,
    ),
}


def layout_of(kind: str) -> PredictionLayout:
    if kind not in LAYOUTS:
        raise ConfigError(
            f"data of kind '{kind}' have no benchmark; predictions are stored for "
            f'{" and ".join(LAYOUTS)}.'
        )
    return LAYOUTS[kind]


class StoredPredictions:
    """Another network's answers, read from a folder; an `Answer` for scoring.

    `split` is the folder inside lidarseg/, for nuScenes; None: the only one there.
    """

    def __init__(self, folder: Path, scans: ScanSet, *, split: str | None = None) -> None:
        self._table, self._layout = scans.table, layout_of(scans.kind)
        if not folder.is_dir():
            raise DataError(f'{folder}: no such folder; give the one that holds the predictions.')
        # both 'folder' and 'folder/sequences' are meant as the folder of predictions
        root = folder.parent if folder.name == self._layout.root else folder
        split = split or _find_split(root)
        places = [root / self._layout.place(frame, split) for frame in scans.frames]
        self._paths = {frame.name: path for frame, path in zip(scans.frames, places)}
        missing = [path for path in places if not path.is_file()]
        if missing:
            raise DataError(
                f'{missing[0]}: no such file, and {len(missing)} of {len(places)} predictions are '
                'missing; predict all scans, or name the sequences that are there.'
            )

    def __call__(self, scan: Scan) -> Labels:
        data, path = self._read(scan)
        return self._layout.read(data, self._table, str(path))

    def number(self, scan: Scan, labels: Labels) -> Numbers:
        """(N,) the stored object numbers, for panoptic quality."""
        self._layout.require_objects()
        return np.frombuffer(self._read(scan)[0], '<u4') >> np.uint32(16)

    def _read(self, scan: Scan) -> tuple[bytes, Path]:
        path = self._paths[scan.name]
        try:
            return path.read_bytes(), path
        except OSError as error:
            raise DataError(f'{path}: cannot be read ({error.strerror}); copy it again.') from None


def _find_split(root: Path) -> str:
    found = sorted(path.name for path in (root / 'lidarseg').glob('*') if path.is_dir())
    if len(found) > 1:
        raise ConfigError(
            f'{root / "lidarseg"}: holds {", ".join(found)}; name the split to score: '
            f'--sequences {found[-1]}.'
        )
    return found[0] if found else 'test'

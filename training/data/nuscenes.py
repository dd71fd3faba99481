# SPDX-License-Identifier: Apache-2.0
"""nuScenes-lidarseg, read from the official tables (v1.0-*/*.json); the devkit is not needed.

A frame is a key frame of LIDAR_TOP, named scene/sample_data token as submissions name it. Its
labels are those of nuScenes-lidarseg; nuScenes-panoptic, where unpacked, numbers the objects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.labels import NUSCENES
from training.data.nuscenes_labels import LabelReader
from training.data.scan import Frame, ScanSet

SENSOR = 'LIDAR_TOP'
PERIOD_S = 0.5  # between key frames
Row = dict[str, Any]
Table = dict[str, Row]  # token -> row


def _scenes(*spans: int | tuple[int, int]) -> frozenset[str]:
    """Scene names of numbers and inclusive spans of numbers."""
    pairs = [span if isinstance(span, tuple) else (span, span) for span in spans]
    return frozenset(f'scene-{n:04}' for low, high in pairs for n in range(low, high + 1))


# The official splits; the rest of v1.0-trainval is train, the rest of v1.0-mini is mini_train.
_VAL = (
    _scenes(3, (12, 18), 35, 36, 38, 39, (92, 110), 221, (268, 278), (329, 332), (344, 346))
    | _scenes((519, 524), (552, 565), (625, 627), 629, 630, (632, 638), 770, 771, 775, 777, 778)
    | _scenes((780, 784), (794, 800), 802, (904, 917), (919, 931), 962, 963, (966, 969), 971)
    | _scenes(972, (1059, 1073))
)
_MINI_VAL = _scenes(103, 916)
SPLITS: dict[str, tuple[str, Callable[[str], bool]]] = {
    'train': ('v1.0-trainval', lambda scene: scene not in _VAL),
    'val': ('v1.0-trainval', lambda scene: scene in _VAL),
    'test': ('v1.0-test', lambda scene: True),
    'mini_train': ('v1.0-mini', lambda scene: scene not in _MINI_VAL),
    'mini_val': ('v1.0-mini', lambda scene: scene in _MINI_VAL),
}


def open_nuscenes(root: str | Path, scenes: str | Sequence[str | int] | None = None) -> ScanSet:
    """All scenes, those of a split (train, val, test, mini_train, mini_val), or those named."""
    root = Path(root)
    with _told_of_tables(root):
        tables, chosen = _choose(root, scenes)
        frames = _list_frames(root, tables, chosen)
    if not frames:
        raise DataError(
            f'{tables}: no {SENSOR} key frame of {scenes or "any scene"}; '
            'unpack the tables again or name other scenes.'
        )
    return ScanSet(
        kind='nuscenes',
        root=root,
        table=NUSCENES,
        frames=frames,
        read_raw=LabelReader({f.labels: f.numbers for f in frames if f.labels and f.numbers}),
        period_s=PERIOD_S,
    )


@contextmanager
def _told_of_tables(root: Path) -> Iterator[None]:
    """Rows that lack a column, or name rows that are nowhere."""
    try:
        yield
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f'{root}: the nuScenes tables do not fit together ({type(error).__name__}: {error}); '
            'unpack the metadata again.'
        ) from None


def _choose(root: Path, wanted: str | Sequence[str | int] | None) -> tuple[Path, dict[str, str]]:
    """The folder of tables, and the scenes asked for: token -> name."""
    if isinstance(wanted, str) and wanted in SPLITS:
        version, belongs = SPLITS[wanted]
        tables = root / version
        return tables, {t: name for t, name in _read_scenes(tables).items() if belongs(name)}
    tables = _find_tables(root)
    present = _read_scenes(tables)
    if wanted is None:
        return tables, present
    names = {wanted} if isinstance(wanted, str) else {str(name) for name in wanted}
    missing = sorted(names - set(present.values()))
    if missing or not names:
        raise DataError(
            f'{tables / "scene.json"}: no scene {", ".join(missing) or "was asked for"}; '
            f"name one split ({', '.join(SPLITS)}), or scenes that it lists, like 'scene-0061'."
        )
    return tables, {token: name for token, name in present.items() if name in names}


def _read_scenes(tables: Path) -> dict[str, str]:
    return {token: row['name'] for token, row in _read(tables, 'scene').items()}


def _find_tables(root: Path) -> Path:
    found = sorted(path.parent for path in root.glob('v1.0-*/scene.json'))
    if len(found) != 1:
        names = ', '.join(folder.name for folder in found) or 'none'
        raise DataError(
            f'{root}: needs one folder of tables (v1.0-trainval, v1.0-test or v1.0-mini), '
            f'found {names}; give the root of nuScenes, or name a split.'
        )
    return found[0]


def _list_frames(root: Path, tables: Path, scenes: Mapping[str, str]) -> tuple[Frame, ...]:
    samples = _read(tables, 'sample', lambda row: row['scene_token'] in scenes)
    scans = _read_scans(tables, samples)
    labels = _read_label_paths(root, tables, scans)
    numbers = (_read_files(root, tables, 'panoptic', scans) or {}) if labels else {}
    ego = {row['ego_pose_token'] for row in scans.values()}
    egos = _read(tables, 'ego_pose', lambda row: row['token'] in ego)
    mounts = _read(tables, 'calibrated_sensor')
    frames = [
        Frame(
            name=f'{scenes[samples[row["sample_token"]]["scene_token"]]}/{token}',
            scan=root / row['filename'],
            labels=labels.get(token),
            numbers=numbers.get(token),
            pose=_pose(tables, egos, row['ego_pose_token'])
            @ _pose(tables, mounts, row['calibrated_sensor_token']),
        )
        for token, row in scans.items()
    ]
    return tuple(sorted(frames, key=lambda f: (f.sequence, scans[_token(f)]['timestamp'])))


def _read_scans(tables: Path, samples: Table) -> Table:
    """The sample_data rows of the key frames of our sensor; it has 2.6 million others."""
    sensors = _read(tables, 'sensor', lambda row: row['channel'] == SENSOR)
    mounts = _read(tables, 'calibrated_sensor', lambda row: row['sensor_token'] in sensors)
    return _read(
        tables,
        'sample_data',
        lambda row: (
            row['is_key_frame']
            and row['calibrated_sensor_token'] in mounts
            and row['sample_token'] in samples
        ),
    )


def _read_label_paths(root: Path, tables: Path, scans: Collection[str]) -> dict[str, Path]:
    """sample_data token -> label file; nothing where there are no labels, as in the test."""
    labels = _read_files(root, tables, 'lidarseg', scans)
    if labels is not None:
        _check_categories(tables)
    elif (tables / 'panoptic.json').is_file():
        raise DataError(
            f'{tables}: panoptic.json, but no lidarseg.json, which has the classes '
            '(nuScenes-panoptic leaves out points); unpack nuScenes-lidarseg beside it.'
        )
    return labels or {}


def _read_files(
    root: Path, tables: Path, name: str, scans: Collection[str]
) -> dict[str, Path] | None:
    """sample_data token -> the file that a table names for it; None without the table."""
    if not (tables / f'{name}.json').is_file():
        return None
    rows = _read(tables, name, lambda row: row['sample_data_token'] in scans)
    return {row['sample_data_token']: root / row['filename'] for row in rows.values()}


def _token(frame: Frame) -> str:
    return frame.name.rpartition('/')[2]


def _check_categories(tables: Path) -> None:
    """The detection download has a category.json too, in another order and without indices."""
    index = {row['name']: row.get('index') for row in _read(tables, 'category').values()}
    # one of ours, so that a renumbered table cannot pass unseen
    if index.get('vehicle.car') != NUSCENES.raw_ids[NUSCENES.names.index('car')][0]:
        raise DataError(
            f'{tables / "category.json"}: not the numbering of nuScenes-lidarseg '
            f'(vehicle.car is {index.get("vehicle.car")}, not 17); '
            'unpack nuScenes-lidarseg over the other tables.'
        )


def _read(tables: Path, name: str, keep: Callable[[Row], bool] = lambda row: True) -> Table:
    """The rows to keep by token; the others are dropped while the file is parsed."""
    path = tables / f'{name}.json'
    try:
        rows = json.loads(
            path.read_bytes(),
            object_hook=lambda row: row if 'token' not in row or keep(row) else None,
        )
        return {row['token']: row for row in rows if row is not None}
    except OSError as error:
        raise DataError(
            f'{path}: cannot be read ({error.strerror}); unpack the nuScenes metadata again.'
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f'{path}: not an official nuScenes table ({type(error).__name__}: {error}); '
            'unpack the metadata again.'
        ) from None


def _pose(tables: Path, rows: Table, token: str) -> NDArray[np.float64]:
    """(4, 4) from a row's translation and rotation (w, x, y, z)."""
    if token not in rows:
        raise DataError(f'{tables}: no pose {token}; the tables are of different releases.')
    w, x, y, z = np.array(rows[token]['rotation'], np.float64) / np.linalg.norm(
        rows[token]['rotation']
    )
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = rows[token]['translation']
    return pose

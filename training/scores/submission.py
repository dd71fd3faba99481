# SPDX-License-Identifier: Apache-2.0
"""Archives for the two benchmarks' servers: packed from a folder of predictions, and checked.

SemanticKITTI  sequences/11..21/predictions/*.label
nuScenes       lidarseg/test/*_lidarseg.bin and test/submission.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import json
from pathlib import Path
import zipfile
import zlib

import numpy as np
import torch

from lidar_kd.errors import DataError, write_atomically, writing
from lidar_kd.labels import IGNORE
from training.data.scan import Frame, Points, ScanSet
from training.scores.predictions import layout_of, PredictionLayout
from training.scores.scoring import Labels

SCAN_BYTES = {'semantickitti': 16, 'nuscenes': 20}  # of a point: float32 x 4, float32 x 5
USES = {'camera': False, 'lidar': True, 'radar': False, 'map': False, 'external': False}
META = {'meta': {f'use_{name}': used for name, used in USES.items()}}
MOST_META = 1 << 20  # bytes of the description beside the predictions
_CHUNK = 1024  # points without an answer that look for a neighbour at a time


def fill_unanswered(points: Points, labels: Labels) -> Labels:
    """Points that the network cannot see take the answer of the nearest one that it can."""
    blind = np.flatnonzero(labels == IGNORE)
    if not len(blind) or len(blind) == len(labels):
        return labels
    seen = np.flatnonzero(labels != IGNORE)
    places = torch.from_numpy(np.nan_to_num(points[:, :3], posinf=0, neginf=0))
    filled = labels.copy()
    for part in np.array_split(blind, -(-len(blind) // _CHUNK)):
        nearest = torch.cdist(places[part], places[seen]).argmin(1).numpy()
        filled[part] = labels[seen[nearest]]
    return filled


def count_points(frame: Frame, kind: str) -> int:
    """By the file's size: a test split has 20,000 scans."""
    try:
        size = frame.scan.stat().st_size
    except OSError as error:
        raise DataError(
            f'{frame.scan}: cannot be read ({error.strerror}); copy it again.'
        ) from None
    return size // SCAN_BYTES[kind]


def pack(
    archive: Path, folder: Path, scans: ScanSet, split: str, advance: Callable[[], None]
) -> None:
    """Every prediction of the scans, complete or no archive at all."""
    layout = layout_of(scans.kind)
    with (
        writing(archive),
        write_atomically(archive) as temporary,
        zipfile.ZipFile(temporary, 'w', zipfile.ZIP_DEFLATED, compresslevel=6) as file,
    ):
        for place, text in list_extras(layout, split).items():
            file.writestr(place, text)
        for frame in scans.frames:
            place = layout.place(frame, split)
            file.write(folder / place, place)
            advance()


def list_extras(layout: PredictionLayout, split: str) -> dict[str, str]:
    """What belongs into an archive beside the predictions."""
    return {f'{split}/submission.json': json.dumps(META)} if layout.kind == 'nuscenes' else {}


def find_problems(
    archive: Path, scans: ScanSet, split: str, advance: Callable[[], None] = lambda: None
) -> list[str]:
    """What the server would refuse or count as misses; one sentence each, none when it is fit."""
    layout = layout_of(scans.kind)
    try:
        with zipfile.ZipFile(archive) as file:
            members = {
                info.filename: info for info in file.infolist() if not info.filename.endswith('/')
            }
            problems = list(_find_strays(members, layout, scans, split))
            problems += _check_extras(file, members, layout, split)
            for frame in scans.frames:
                problems += _check_prediction(file, members, frame, scans, split)
                advance()
    except OSError as error:
        raise DataError(
            f'{archive}: cannot be read ({error.strerror or error}); check the path.'
        ) from None
    except DataError:
        raise
    # a directory that is damaged, of another version, or has names that are no text
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f'{archive}: no complete zip archive ({error}); pack it again.') from None
    return problems


def _find_strays(
    members: Mapping[str, zipfile.ZipInfo], layout: PredictionLayout, scans: ScanSet, split: str
) -> Iterator[str]:
    known = {layout.place(frame, split) for frame in scans.frames}
    known |= {*list_extras(layout, split), 'description.txt'}
    strays = sorted(members.keys() - known)
    if strays:
        yield (
            f'{strays[0] or "a file without a name"}: belongs to no scan of this split, and '
            f'{len(strays) - 1} more; pack the archive from the split alone.'
        )


def _check_extras(
    file: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    layout: PredictionLayout,
    split: str,
) -> Iterator[str]:
    for place in list_extras(layout, split):
        if place not in members:
            yield f'{place}: is missing; the server wants to know which sensors were used.'
            continue
        try:
            meta = json.loads(_unpack(file, members[place], MOST_META))['meta']
            complete = {*META['meta']} <= {*meta}
        except DataError as error:
            yield str(error)
            continue
        except (ValueError, KeyError, TypeError, RecursionError):
            complete = False
        if not complete:
            yield f'{place}: needs "meta" with {", ".join(META["meta"])}; write it again.'


def _unpack(file: zipfile.ZipFile, member: zipfile.ZipInfo, most_bytes: int) -> bytes:
    place = member.filename
    if member.file_size > most_bytes:
        raise DataError(
            f'{place}: grows to {member.file_size:,} bytes (at most {most_bytes:,}); '
            'write it again.'
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f'{place}: packed as servers need not unpack; pack it again, as plain zip.'
        )
    try:
        return file.read(place)
    # a part that is cut off, damaged, encrypted or packed by an unknown method
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, LookupError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise DataError(f'{place}: cannot be unpacked ({reason}); pack it again.') from None


def _check_prediction(
    file: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    frame: Frame,
    scans: ScanSet,
    split: str,
) -> Iterator[str]:
    layout = layout_of(scans.kind)
    place = layout.place(frame, split)
    if place not in members:
        yield f'{place}: is missing; predict scan {frame.name}.'
        return
    points, size = count_points(frame, scans.kind), members[place].file_size
    if size != points * layout.stored.itemsize:
        yield (
            f'{place}: {size} bytes for the {points} points of {frame.scan.name}, which need '
            f'{points * layout.stored.itemsize}; predict this scan again.'
        )
        return
    try:
        labels = layout.read(_unpack(file, members[place], size), scans.table, place)
    except DataError as error:
        yield str(error)
        return
    unanswered = int((labels == IGNORE).sum())
    if unanswered:
        yield f'{place}: {unanswered} points have no class; every point needs one.'

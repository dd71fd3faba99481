# SPDX-License-Identifier: Apache-2.0
"""A teacher's answers kept on disk, scan by scan: it sees each as it is, the student augmented.

In float16, so they differ from fresh ones in the fourth digit; read again they take a twentieth
of the time of a large network. A file is found by the points it answers for, whatever they are
called and whichever run asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
import torch
from torch import Tensor

from lidar_kd.errors import DataError, write_atomically
from lidar_kd.models.output import Output
from lidar_kd.sparse import Level
from lidar_kd.voxels import Voxels

Answers = dict[str, Tensor]  # of one scan
_ROWS = ('voxel_logits', 'voxel_features', 'own_point_logits', 'own_point_features',
         'early_features')  # fmt: skip


@dataclass(eq=False)
class Remembered(Output):
    """An output whose early features were read, not computed."""

    kept_features: Tensor | None = None
    kept_cell: Tensor | None = None

    @property
    def early_features(self) -> Tensor | None:
        return self.kept_features

    @property
    def early_cell(self) -> Tensor | None:
        return self.kept_cell


class CachedTeacher:
    """Answers as the teacher does, from the folder where it has answered before."""

    def __init__(self, teacher: Callable[[Voxels], Output], folder: Path) -> None:
        self._teacher, self._folder = teacher, folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, voxels: Voxels) -> Output:
        if not len(voxels.level):
            return self._teacher(voxels)
        return _join([self._answer(scan) for scan in _split(voxels)], voxels)

    def _answer(self, voxels: Voxels) -> Answers:
        path = self._folder / f'{_digest(voxels.points)}.safetensors'
        device = str(voxels.points.device)
        try:
            return load_file(path, device=device)
        except (FileNotFoundError, SafetensorError):  # not there, or damaged
            _keep(_pack(self._teacher(voxels)), path)
        return load_file(path, device=device)


def _keep(answers: Answers, path: Path) -> None:
    try:
        with write_atomically(path) as temporary:
            save_file(answers, temporary)
    except SafetensorError as error:
        raise DataError(
            f"{path}: the teacher's answers cannot be kept ({error}); free some space, then run "
            'the same command again.'
        ) from None


def _digest(points: Tensor) -> str:
    return hashlib.blake2b(points.cpu().contiguous().numpy().data, digest_size=16).hexdigest()


def _split(voxels: Voxels) -> Iterator[Voxels]:
    """Each scan's voxels alone; coordinates say that it is the first of its batch."""
    owner = voxels.coords[:, 0]
    for scan in owner.unique().tolist():
        mine, points = owner == scan, voxels.batch == scan
        coords = voxels.coords[mine].clone()
        coords[:, 0] = 0
        first = int(torch.nonzero(mine)[0]) if bool(mine.any()) else 0
        yield Voxels(
            voxels.points[points],
            torch.zeros_like(voxels.batch[points]),
            voxels.rows[points],
            voxels.positions[points],
            voxels.point_voxel[points] - first,
            voxels.features[mine],
            Level(coords, voxels.level.engine),
        )


def _pack(output: Output) -> Answers:
    answers = {name: getattr(output, name) for name in _ROWS}
    packed = {k: _shorten(v).contiguous() for k, v in answers.items() if v is not None}
    if output.early_cell is not None:
        packed['early_cell'] = output.early_cell.int().contiguous()
    return packed


def _shorten(values: Tensor) -> Tensor:
    """float16 where that holds them."""
    short = values.half()
    return short if bool(short.isfinite().all()) else values.float()


def _join(scans: list[Answers], voxels: Voxels) -> Output:
    parts = {k: torch.cat([scan[k].float() for scan in scans]) for k in _ROWS if k in scans[0]}
    early, cell = parts.pop('early_features', None), None
    if early is not None:
        sizes = [len(scan['early_features']) for scan in scans]
        before = [sum(sizes[:scan]) for scan in range(len(scans))]
        cells = [scan['early_cell'].long() + first for scan, first in zip(scans, before)]
        cell = torch.cat(cells)
    return Remembered(
        voxel_logits=parts['voxel_logits'],
        voxel_features=parts['voxel_features'],
        point_voxel=voxels.point_voxel,
        own_point_logits=parts.get('own_point_logits'),
        own_point_features=parts.get('own_point_features'),
        kept_features=early,
        kept_cell=cell,
    )

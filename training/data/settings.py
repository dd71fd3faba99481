# SPDX-License-Identifier: Apache-2.0
"""The `data` section of a configuration, and what all sections have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    model_validator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from lidar_kd.bundle import SensorSpec
from lidar_kd.errors import ConfigError
from training.data.augment import Augmentation
from training.data.fusion import Moving
from training.data.kinds import KINDS
from training.streets.make import MAX_SEQUENCES
from training.streets.quarters import QUARTERS
from training.streets.sensors import SENSORS
from training.worlds.devices import ANY, DEVICES
from training.worlds.kinds import PLACES
from training.worlds.standpoint import ANY_MOUNT, MOUNTS

Switch = Literal['auto', 'off']
VARIED = 'varied'  # the other world
Sequences = str | tuple[str | int, ...]  # the name of a split, or of sequences


def one_of(key: str, value: str, choices: Sequence[str] | dict[str, Any]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}: unknown '{value}'. Choose one of {', '.join(choices)}")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)


class Streets(Section):
    """Simulated on first use; the first `train` sequences to learn from, the others to score."""

    train: PositiveInt = 16  # sequences
    validation: PositiveInt = 6  # sequences
    labelled: PositiveInt | None = None  # of `train`, the first; the others are not looked at
    unlabelled: NonNegativeInt = 0  # more sequences, for a teacher to explain; distill only
    scans: PositiveInt = 25  # of each sequence, at 10 Hz
    sensor: str = 'hdl64'
    quarter: str = 'mixed'
    enrich: NonNegativeFloat = 3.0  # times as many rare objects as in reality, to learn from
    enrich_validation: NonNegativeFloat = 3.0  # the same among the sequences to score
    seed: NonNegativeInt = 0
    world: str = 'streets'  # or varied: scans that each stand alone, with `sensor: any` as well
    mount: str = ANY_MOUNT  # of the varied world: or car
    place: str = 'mixed'  # of the varied world: or residential, city, country, highway, yard

    @model_validator(mode='after')
    def _known(self) -> Streets:
        one_of('world', self.world, ['streets', VARIED])
        sensors = [ANY, *DEVICES] if self.world == VARIED else [*SENSORS]
        one_of('sensor', self.sensor, sensors)
        one_of('quarter', self.quarter, ['mixed', *QUARTERS])
        one_of('mount', self.mount, MOUNTS)
        one_of('place', self.place, ['mixed', *PLACES])
        if self.labelled is not None and self.labelled > self.train:
            raise ValueError(f'labelled: {self.labelled} of {self.train} sequences to learn from')
        total = self.train + self.validation + self.unlabelled
        if total > MAX_SEQUENCES:
            raise ValueError(
                f'{total} sequences (train + validation + unlabelled): at most {MAX_SEQUENCES}'
            )
        return self


class DataSource(Section):
    """A data set on disk."""

    kind: str = 'semantickitti'
    root: Path | None = None  # None: data.root
    sequences: Sequences | None = None  # None: all
    intensity_scale: PositiveFloat | None = None  # to that of the labelled; None: by their ranges
    repeat: PositiveInt = 1  # times that each of its scans is seen in an epoch
    mounting: Switch = 'off'  # auto: every scan is brought to the pose of data.sensor, as the node
    intensity: Switch = 'off'  # and to its brightness of the ground

    @model_validator(mode='after')
    def _known(self) -> DataSource:
        one_of('kind', self.kind, KINDS)
        return self


class LabelledSource(DataSource):
    """One to learn from beside `train`, whose labels may tell less than their class."""

    merged: dict[str, tuple[str, ...]] = {}  # class -> those that its points may be; []: any


class Data(Section):
    kind: str = 'streets'  # simulated on the spot, or the kind of data set under `root`
    root: Path | None = None  # None: runs/streets/ for streets
    streets: Streets = Streets()
    train: Sequences = 'train'
    train_scans: PositiveInt | None = None  # of `train` at most so many, evenly spread; None: all
    validation: Sequences = 'val'
    validation_scans: PositiveInt | None = None  # at most so many, evenly spread; None: all
    mounting: Switch = 'off'  # of `train`, as in a source below: what the node would show
    intensity: Switch = 'off'
    labelled: tuple[LabelledSource, ...] = ()  # more scans with labels, of the same classes
    unlabelled: tuple[DataSource, ...] = ()  # more scans for the teacher to explain; distill only
    sensor: SensorSpec | None = None  # what the bundle says of it; None: by the kind of data
    intensity_scale: PositiveFloat = 1.0  # times the stored intensity: 0..1 is the convention
    workers: NonNegativeInt = 1  # processes that prepare batches, per rank
    augment: Augmentation = Augmentation()
    fusion: bool = False  # train on scans fused with the past of hard objects (a M2SKD teacher)
    past_scans: PositiveInt = 4  # that fusion looks back
    moving: Moving = 'registered'  # how fusion aligns what moves; M2SKD's code: centroid

    @property
    def has_unlabelled(self) -> bool:
        return bool(self.unlabelled or (self.kind == 'streets' and self.streets.unlabelled))

    @model_validator(mode='after')
    def _known(self) -> Data:
        one_of('kind', self.kind, ['streets', *KINDS])
        if self.kind != 'streets' and self.root is None:
            raise ValueError(f'root: the folder of the {self.kind} data set is missing')
        for key in ('labelled', 'unlabelled'):
            if self.root is None and not all(source.root for source in getattr(self, key)):
                raise ValueError(f'{key}: root: the folder of a data set is missing')
        return self

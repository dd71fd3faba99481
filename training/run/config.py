# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training run: typed, strict, one comment per knob.

A file gives what differs from the defaults below; `--set optim.lr=5e-4` changes single keys.
"""

from __future__ import annotations

from collections.abc import Sequence
import copy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    model_validator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from lidar_kd.bundle import COLUMNS
from lidar_kd.models import MODELS, PRESETS
from lidar_kd.voxels import CartesianGrid, Grid
from training.data.settings import Data, one_of, Section
from training.methods import METHODS
from training.methods.m2skd import M2skdSettings
from training.methods.pvkd import PvkdSettings
from training.methods.srkd import SrkdSettings
from training.methods.supervised import SupervisedSettings
from training.run.old_names import find_teacher_sections, refuse_old_settings, rename_settings
from training.run.yaml_file import check_settings, read_settings

MAIN = 'teacher'  # name of the teacher of all methods that have none of their own
Share = Annotated[float, Field(ge=0, le=1)]


class NetworkSettings(Section):
    name: str = 'minkunet_quarter'  # a model or a preset of lidar_kd.models
    settings: dict[str, Any] = {}  # for its constructor
    grid: Grid = CartesianGrid(voxel_m=0.2)
    warm_start: Path | None = None  # a bundle whose weights it has at the first step

    @model_validator(mode='after')
    def _known(self) -> NetworkSettings:
        one_of('name', self.name, list(dict.fromkeys([*MODELS, *PRESETS])))
        if 'classes' in self.settings:
            raise ValueError('settings.classes: the label table of the data says it; leave it out')
        if self.settings.get('in_channels', COLUMNS) != COLUMNS:
            raise ValueError(f'settings.in_channels: points have {COLUMNS} columns; leave it out')
        return self


class Optim(Section):
    name: Literal['adamw', 'sgd'] = 'adamw'
    lr: PositiveFloat = 2e-3  # the highest of the schedule
    transformer_lr: PositiveFloat = 1.0  # times lr for attention blocks; PTv3's recipe: 0.1
    weight_decay: NonNegativeFloat = 0.01
    momentum: Share = 0.9  # of sgd
    schedule: Literal['onecycle', 'cosine', 'constant'] = 'onecycle'
    warmup: Share = 0.1  # share of the steps in which the rate rises
    epochs: PositiveFloat = 10
    steps: PositiveInt | None = None  # instead of epochs
    batch_size: PositiveInt = 2  # scans of a step, per rank
    clip_norm: NonNegativeFloat = 10.0  # of the whole gradient; 0: not clipped
    precision: Literal['auto', 'float32', 'high', 'bfloat16', 'float16'] = 'auto'
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of averaged weights; 0: none
    sync_norms: bool = True  # batch norms see the scans of all ranks


class Validate(Section):
    every: PositiveFloat = 1.0  # epochs
    steps: PositiveInt | None = None  # instead of epochs; students on other scans agree in these
    keep: Literal['best', 'last'] = 'best'  # last: the choice has not seen the scores
    patience: PositiveInt | None = None  # rounds without a better mIoU before the run stops
    pictures: NonNegativeInt = 3  # of validation scans in the report


class TeacherSettings(Section):
    """A frozen network: a bundle, or one that another configuration trains on the spot."""

    remedy: ClassVar[str] = 'name a bundle, or a config that trains one'

    bundle: Path | None = None
    config: Path | None = None  # beside this file; trained into its own run folder when missing
    ensemble: tuple[Path, ...] = ()  # more bundles: the mean of the posteriors of all answers
    cache: bool = False  # it sees scans before augmentation, each once: outputs kept on disk

    @model_validator(mode='after')
    def _one(self) -> TeacherSettings:
        ways = self._ways()
        if len(ways) > 1:
            raise ValueError(f'{" and ".join(ways)} are set; keep one and set the other to null')
        if not ways:
            raise ValueError(self.remedy)
        return self

    def _ways(self) -> list[str]:
        return [way for way in ('bundle', 'config') if getattr(self, way) is not None]


class MainTeacherSettings(TeacherSettings):
    """Of all methods that have none of their own.

    shared: M2SKD's joint variant: the student itself teaches, looking at the fused scan.
    """

    remedy: ClassVar[str] = f'{TeacherSettings.remedy}, or set shared: true'

    shared: bool = False
    pseudo_labels: Share | None = None  # scans without labels get the teachers', if so sure

    def _ways(self) -> list[str]:
        return [*super()._ways(), *(['shared'] if self.shared else [])]

    @model_validator(mode='after')
    def _not_with_itself(self) -> MainTeacherSettings:
        if self.shared and self.ensemble:
            raise ValueError('ensemble: a student that is its own teacher has no others beside it')
        return self


class Methods(Section):
    """Settings of the methods; those that `method` lists are used."""

    srkd: SrkdSettings = SrkdSettings()
    pvkd: PvkdSettings = PvkdSettings()
    m2skd: M2skdSettings = M2skdSettings()


class Config(Section):
    name: str  # of the run; its folder is runs/NAME unless --out says otherwise
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    device: str = 'auto'
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  # of torch on a CPU; 0: one per core
    data: Data = Data()
    model: NetworkSettings = NetworkSettings()
    loss: SupervisedSettings = SupervisedSettings()
    optim: Optim = Optim()
    validate_: Validate = Field(default=Validate(), alias='validate')
    teacher: MainTeacherSettings | None = None  # distill only
    teachers: dict[str, TeacherSettings] = {}  # method -> one of its own, as a fused one for m2skd
    method: tuple[str, ...] = ()  # distill only; a sum of several divides automatic shares
    methods: Methods = Methods()
    known_gain: str | None = None  # a row of docs/distillation.md, which the run's report quotes
    log_every: PositiveInt = 20  # steps
    save_every_s: NonNegativeFloat = 60.0  # between two checkpoints

    @property
    def is_its_own_teacher(self) -> bool:
        return self.teacher is not None and self.teacher.shared

    @property
    def learns_from_teacher(self) -> bool:
        """Without a method it learns from the teacher's pseudo-labels alone."""
        return bool(self.method or (self.teacher and self.teacher.pseudo_labels is not None))

    @property
    def taught_by(self) -> str:
        """The methods, for people."""
        return ' + '.join(self.method) or 'pseudo-labels alone'

    def teacher_of(self, method: str) -> str:
        """Its name: that of the method if it has its own."""
        return method if method in self.teachers else MAIN

    @property
    def asked_teachers(self) -> dict[str, TeacherSettings]:
        """Those that this run asks, by name; none if the student is its own."""
        if self.teacher is None or self.teacher.shared:
            known = self.teachers
        else:
            known = {MAIN: self.teacher, **self.teachers}
        names = {self.teacher_of(method) for method in self.method}
        if not self.method and self.learns_from_teacher:
            names = {MAIN}
        return {name: teacher for name, teacher in known.items() if name in names}

    def is_shown_the_past(self, teacher: str) -> bool:
        """Whether the teacher of that name sees scans fused with their past."""
        return 'm2skd' in self.method and teacher == self.teacher_of('m2skd')

    @model_validator(mode='after')
    def _known(self) -> Config:
        if not self.name or self.name[0] == '.' or {*self.name} & {*'/\\'}:
            raise ValueError(
                f"name: '{self.name}' cannot be a folder in runs/: give it letters, without a dot "
                'at the beginning or a slash'
            )
        for name in self.method:
            one_of('method', name, METHODS)
            if self.teacher is None and name not in self.teachers:
                raise ValueError(f'teacher: missing, but {name} needs one')
        for name in self.teachers:
            one_of('teachers', name, METHODS)
        if len(set(self.method)) < len(self.method):
            raise ValueError(f'method: {" + ".join(self.method)} names one twice')
        if self.data.fusion and self.learns_from_teacher:
            raise ValueError(
                'data.fusion: fuses the scans of a network that is trained alone, as a teacher; '
                'M2SKD shows its teacher fused scans itself: set it to false'
            )
        if self.is_its_own_teacher and (self.method != ('m2skd',) or self.teachers):
            raise ValueError('teacher.shared: only M2SKD shows its teacher more: method: [m2skd]')
        if self.is_its_own_teacher and self.data.has_unlabelled:
            raise ValueError(
                'teacher.shared: the student cannot explain scans without labels to itself; set '
                'data.unlabelled to [] and data.streets.unlabelled to 0, or name a teacher'
            )
        if self.loss.label_smoothing and any(each.merged for each in self.data.labelled):
            raise ValueError(
                'loss.label_smoothing: spreads a label over all classes, and data.labelled has '
                'merged ones that are several at once; set it to 0'
            )
        self._check_augmentation()
        return self

    def _check_augmentation(self) -> None:
        augment = self.data.augment
        for name, teacher in self.asked_teachers.items():
            if teacher.cache and not augment.keeps_rows:
                key = MAIN if name == MAIN else f'teachers.{name}'
                raise ValueError(
                    f'{key}.cache: its answers are kept for the points that a scan has, which may '
                    'move but not come and go; set paste, drop and the mixes of data.augment to '
                    f'0, or {key}.cache to false'
                )
        if 'srkd' in self.method and augment.mixes:
            srkd = self.methods.srkd
            if srkd.cross and not srkd.relate_mixes:
                raise ValueError(
                    'data.augment: a mix makes one scan of parts of two, and the cross term of '
                    'SRKD relates whole ones; set its mixes to 0, or methods.srkd.cross to 0, or '
                    'methods.srkd.relate_mixes to true, as its authors do'
                )
        pseudo_labels = self.teacher is not None and self.teacher.pseudo_labels is not None
        if pseudo_labels and augment.brings_points and self.data.has_unlabelled:
            raise ValueError(
                'teacher.pseudo_labels: they are for scans without labels, and what is pasted or '
                'mixed in has labels; set paste and the mixes of data.augment to 0, or '
                'teacher.pseudo_labels to null'
            )


_DECIDES_NOTHING = {
    *('name', 'seed', 'device', 'threads', 'known_gain', 'log_every', 'save_every_s'),
    *('data.workers', 'validate.pictures'),
}


def load_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """The configuration in a file; paths of other configurations become absolute."""
    settings = read_settings(path, changes)
    if any(change.partition('=')[0] not in _DECIDES_NOTHING for change in changes):
        settings.pop('known_gain', None)  # it was measured as the file has it
    settings.setdefault('name', path.stem)
    refuse_old_settings(settings, path.name)
    for teacher in find_teacher_sections(settings):
        if teacher.get('config'):
            teacher['config'] = str((path.resolve().parent / str(teacher['config'])).resolve())
    return check_settings(settings, Config, path.name)


def describe_changes(ours: Config, theirs: dict[str, Any]) -> list[str]:
    """'optim.lr 0.001 -> 0.002' for every value that differs from an earlier run's."""
    mine = _flatten_settings(ours.model_dump(mode='json', by_alias=True))
    other = _flatten_settings(theirs)
    return [
        f'{key} {other.get(key)} -> {mine.get(key)}'
        for key in sorted((mine.keys() | other.keys()) - {'known_gain'})  # which decides nothing
        if mine.get(key) != other.get(key)
    ]


def read_past_settings(there: dict[str, Any]) -> dict[str, Any]:
    """What a run left, in the names of today; keys that are newer than it have their defaults."""
    settings = rename_settings(there)
    try:
        return Config.model_validate(settings).model_dump(mode='json', by_alias=True)
    except ValidationError:
        return settings


def _flatten_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """By dotted key; another configuration of a checkout is the same wherever that lies."""
    settings = copy.deepcopy(settings)
    for teacher in find_teacher_sections(settings):
        if teacher.get('config'):
            teacher['config'] = _within_checkout(Path(str(teacher['config'])))
    return dict(_flatten(settings))


def _within_checkout(path: Path) -> str:
    parts = path.parts
    if 'config' not in parts:
        return str(path)
    first = len(parts) - 1 - parts[::-1].index('config')
    return '/'.join(parts[first:])


def _flatten(section: dict[str, Any], place: str = '') -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in section.items():
        if isinstance(value, dict):
            flat += _flatten(value, f'{place}{key}.')
        else:
            flat.append((f'{place}{key}', value))
    return flat

# SPDX-License-Identifier: Apache-2.0
"""Which runs a comparison consists of, and where each of them lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path

from lidar_kd.errors import ConfigError
from training.comparing.figures import ALONE, LABEL_SMOOTHING, PSEUDO_LABELS, SELF_TEACHER
from training.data.settings import Data
from training.run.config import Config, Methods
from training.run.folder import RunFolder
from training.run.old_names import find_run, refuse_old_arm, spell_as_before
from training.run.simulated import digest_streets
from training.run.yaml_file import check_settings

# what the others differ in
_NOT_ALONE = {'seed', 'name', 'method', 'methods', 'teacher', 'teachers'}
_BARE = (ALONE, LABEL_SMOOTHING)  # arms that no teacher has a part in
SMOOTHING = 0.1  # of LABEL_SMOOTHING, as Szegedy et al. (2016)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run: an arm (the student alone, a method or a sum of methods) with a seed.

    taught_by: the run that must be finished first, as its student is this one's teacher.
    fold: which part of a cross-validation; None without one.
    """

    arm: str
    seed: int
    config: Config
    folder: RunFolder
    taught_by: Planned | None = None
    fold: int | None = None

    @property
    def name(self) -> str:
        return name_run(self.arm, self.seed, self.fold)


def name_run(arm: str, seed: int, fold: int | None) -> str:
    return f'{arm}-{seed}' if fold is None else f'{arm}-{seed}-fold{fold}'


def plan_runs(config: Config, arms: list[str], seeds: int, out: Path) -> list[Planned]:
    return plan_folds([config], arms, seeds, out)


def plan_folds(configs: Sequence[Config], arms: list[str], seeds: int, out: Path) -> list[Planned]:
    """Seed by seed, so that an interrupted comparison has pairs to show; an arm named twice is
    one. `configs`: that of each fold, or the only one.
    """
    _check_steps(configs[0])
    arms = list(dict.fromkeys(arms))
    numbers = range(configs[0].seed, configs[0].seed + seeds)
    folds = [*enumerate(configs)] if len(configs) > 1 else [(None, configs[0])]
    return [
        _plan_run(config, arm, seed, out, fold)
        for seed in numbers
        for fold, config in folds
        for arm in arms
    ]


def _check_steps(config: Config) -> None:
    """Scans without labels make the epochs of all but the student alone longer."""
    if not config.data.has_unlabelled:
        return
    if config.optim.steps is None:
        raise ConfigError(
            'optim.steps: missing; in as many epochs the student alone, which reads no scans '
            'without labels, would take fewer steps than the others: set it, as to 2000.'
        )
    rules = config.validate_
    if rules.steps is None and (rules.keep == 'best' or rules.patience):
        raise ConfigError(
            'validate.steps: missing; by epochs the student alone, whose epochs are shorter, '
            'would choose its best among more scores than the others: set it, as to 500, or '
            'validate.keep to last and validate.patience to null.'
        )


def _plan_run(config: Config, arm: str, seed: int, out: Path, fold: int | None) -> Planned:
    """The student alone lies beside the comparisons, for it is the same in all of them."""
    refuse_old_arm(arm)
    first = _plan_run(config, ALONE, config.seed, out, fold) if arm == SELF_TEACHER else None
    name = name_run(arm, seed, fold)
    changes: dict[str, object] = {'name': name, 'seed': seed, 'known_gain': None}
    if arm in _BARE:
        changes |= _without_teacher(config, arm)
    elif first is not None:
        changes |= _from_student(config, first.folder.bundle)
    else:
        changes |= _from_teacher(config, arm)
    one = check_settings(config.model_dump(by_alias=True) | changes, Config, arm)
    folder = RunFolder(find_run(_share(out, one, arm) if arm in _BARE else out, one.name))
    return Planned(arm=arm, seed=seed, config=one, folder=folder, taught_by=first, fold=fold)


def _without_teacher(config: Config, arm: str) -> dict[str, object]:
    data, streets = config.data, config.data.streets.model_copy(update={'unlabelled': 0})
    if not data.fusion:  # what only M2SKD's teacher sees makes no other student alone
        fusion = {key: Data.model_fields[key].default for key in ('past_scans', 'moving')}
        data = data.model_copy(update=fusion)
    smoothing = SMOOTHING if arm == LABEL_SMOOTHING else config.loss.label_smoothing
    return {
        'teacher': None,
        'teachers': {},
        'method': (),
        'methods': Methods(),
        'data': data.model_copy(update={'unlabelled': (), 'streets': streets}),
        'loss': config.loss.model_copy(update={'label_smoothing': smoothing}),
    }


def _from_student(config: Config, bundle: Path) -> dict[str, object]:
    """What a teacher no larger than the student is worth: the methods of the configuration."""
    if config.teacher is None or config.teacher.shared or not config.method:
        raise ConfigError(
            f'{SELF_TEACHER}: the first student alone takes the place of the teacher in the '
            'methods of the configuration; it names no frozen teacher or no method: set both.'
        )
    teacher = config.teacher.model_copy(update={'config': None, 'bundle': bundle, 'ensemble': ()})
    return {'teacher': teacher.model_dump(), 'teachers': {}}


def _from_teacher(config: Config, arm: str) -> dict[str, object]:
    if arm == PSEUDO_LABELS and (config.teacher is None or config.teacher.pseudo_labels is None):
        raise ConfigError(
            f'{PSEUDO_LABELS}: the teacher gives them only where teacher.pseudo_labels is set; '
            'set it, as to 0.5, or name a method.'
        )
    method = () if arm == PSEUDO_LABELS else tuple(arm.split('+'))
    own = {name: teacher for name, teacher in config.teachers.items() if name in method}
    return {
        'method': method,
        'teachers': {name: teacher.model_dump() for name, teacher in own.items()},
    }


def _share(out: Path, one: Config, arm: str) -> Path:
    """A folder beside the comparisons, named by all that such runs have in common."""
    # without defaults: a key that is new one day has its own in the runs that are there
    known = spell_as_before(one.model_dump_json(exclude=_NOT_ALONE, exclude_defaults=True))
    if one.data.kind == 'streets':  # which are others when the simulator changes
        known += digest_streets(one.data.streets)
    return out.parent / f'{arm}-{hashlib.sha256(known.encode()).hexdigest()[:8]}'

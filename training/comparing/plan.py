# SPDX-License-Identifier: Apache-2.0
"""Which runs a comparison consists of, and where each of them lies."""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
from pathlib import Path

from lidar_kd.errors import ConfigError
from training.comparing.figures import ALONE, PSEUDO_LABELS
from training.run.config import Config, Methods
from training.run.folder import RunFolder
from training.run.old_names import find_run, refuse_old_arm, spell_as_before
from training.run.sources import digest_streets
from training.run.yaml_file import check

# what the others differ in
_NOT_ALONE = {'seed', 'name', 'method', 'methods', 'teacher', 'teachers'}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run: an arm (the student alone, a method or a sum of methods) with a seed."""

    arm: str
    seed: int
    config: Config
    folder: RunFolder

    @property
    def name(self) -> str:
        return f'{self.arm}-{self.seed}'


def plan(config: Config, arms: list[str], seeds: int, out: Path) -> list[Planned]:
    """Seed by seed, so that an interrupted comparison has pairs to show; an arm named twice is
    one.
    """
    _check_steps(config)
    arms = list(dict.fromkeys(arms))
    numbers = range(config.seed, config.seed + seeds)
    return [_plan_run(config, arm, seed, out) for seed in numbers for arm in arms]


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


def _plan_run(config: Config, arm: str, seed: int, out: Path) -> Planned:
    """The student alone lies beside the comparisons, for it is the same in all of them."""
    refuse_old_arm(arm)
    method = () if arm in (ALONE, PSEUDO_LABELS) else tuple(arm.split('+'))
    own = {name: teacher for name, teacher in config.teachers.items() if name in method}
    changes: dict[str, object] = {
        'name': f'{arm}-{seed}',
        'seed': seed,
        'method': method,
        'teachers': {name: teacher.model_dump() for name, teacher in own.items()},
    }
    if arm == ALONE:
        streets = config.data.streets.model_copy(update={'unlabelled': 0})
        data = config.data.model_copy(update={'unlabelled': (), 'streets': streets})
        changes |= {'teacher': None, 'methods': Methods(), 'data': data}
    if arm == PSEUDO_LABELS and (config.teacher is None or config.teacher.pseudo_labels is None):
        raise ConfigError(
            f'{PSEUDO_LABELS}: the teacher gives them only where teacher.pseudo_labels is set; '
            'set it, as to 0.5, or name a method.'
        )
    one = check(config.model_dump(by_alias=True) | changes, Config, arm)
    if arm == ALONE:
        # without defaults: a key that is new one day has its own in the runs that are there
        known = spell_as_before(one.model_dump_json(exclude=_NOT_ALONE, exclude_defaults=True))
        if one.data.kind == 'streets':  # which are others when the simulator changes
            known += digest_streets(one.data.streets)
        out = out.parent / f'alone-{hashlib.sha256(known.encode()).hexdigest()[:8]}'
    return Planned(arm=arm, seed=seed, config=one, folder=RunFolder(find_run(out, one.name)))

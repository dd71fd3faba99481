# SPDX-License-Identifier: Apache-2.0
"""What a comparison scores: all of its runs, or those of one fold of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lidar_kd.bundle import read_spec
from lidar_kd.cli.console import Console
from lidar_kd.labels import ClassTable
from training.comparing.figures import Outcome
from training.comparing.folds import pool_folds
from training.comparing.plan import Planned
from training.comparing.runs import answer_all, choose_half, read_run, score_teacher
from training.run.config import Config
from training.run.sources import fuse_scans, open_sources, Sources


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredPart:
    """Outcomes by arm, in the order of the seeds, and by teacher; bundles: what they came from."""

    arms: Mapping[str, Sequence[Outcome]]
    teachers: Mapping[str, Outcome]
    shown_the_past: Mapping[str, Outcome]
    bundles: Sequence[Path]  # the student, and the teachers


@dataclass(frozen=True, eq=False)
class Part:
    """Runs that are scored on the same scans."""

    config: Config
    sources: Sources
    teachers: Mapping[str, Path]
    runs: Sequence[Planned]

    def list_others(self, teacher: str) -> Sequence[Path]:
        """Those that answer beside it; what a student alone teaches has none."""
        own = (one.config.asked_teachers for one in self.runs if one.taught_by is None)
        return next(asked[teacher].ensemble for asked in own if teacher in asked)


def open_part(config: Config, half: str | None, console: Console) -> Sources:
    sources = open_sources(config.data, console)
    if half is None:
        return sources
    return replace(sources, validation=choose_half(sources.validation, half))


def describe_parts(parts: Sequence[Part]) -> str:
    if len(parts) == 1:
        return parts[0].sources.validation.describe()
    frames = [frame for part in parts for frame in part.sources.validation.frames]
    sequences = len({frame.sequence for frame in frames})
    return f'{len(frames)} scans of {sequences} sequences, cross-validated in {len(parts)} folds'


def score_part(part: Part, console: Console) -> ScoredPart:
    """Asks every network once about the same scans."""
    scans = part.sources.validation
    teachers = keep_answering(part.teachers, scans.table, console)
    answers = {
        name: answer_all(path, scans, part.list_others(name)) for name, path in teachers.items()
    }
    arms: dict[str, list[Outcome]] = {}
    for one in part.runs:
        asked = next(iter([*one.config.asked_teachers, *answers]), None)  # the first of its own
        theirs = answers.get(asked or '', [])
        arms.setdefault(one.arm, []).append(read_run(one.folder, scans, theirs))
    shown = [t for t in teachers if any(one.config.is_shown_the_past(t) for one in part.runs)]
    return ScoredPart(
        arms=arms,
        teachers={name: score_teacher(scans, theirs) for name, theirs in answers.items()},
        shown_the_past={name: _score_with_the_past(part, name, console) for name in shown},
        bundles=[part.runs[0].folder.bundle, *teachers.values()],
    )


def pool_arms(parts: Sequence[Mapping[str, Sequence[Outcome]]]) -> dict[str, list[Outcome]]:
    """One outcome by arm and seed of those of all folds."""
    return {
        arm: [pool_folds(of_seed) for of_seed in zip(*(part[arm] for part in parts))]
        for arm in parts[0]
    }


def keep_answering(
    teachers: Mapping[str, Path], labels: ClassTable, console: Console
) -> dict[str, Path]:
    """Those that can be scored; others teach by their features alone."""
    kept = {name: p for name, p in teachers.items() if read_spec(p).labels.name == labels.name}
    for name in teachers.keys() - kept.keys():
        console.line(f'{name} teaches by features alone and is not scored')
    return kept


def _score_with_the_past(part: Part, teacher: str, console: Console) -> Outcome:
    """M2SKD asks its teacher about scans with their past, which only labelled scans have."""
    sources = part.sources
    fused = fuse_scans(sources.validation, sources.scored, part.config.data, console)
    answers = answer_all(part.teachers[teacher], fused, part.list_others(teacher))
    return score_teacher(sources.validation, answers)

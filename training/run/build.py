# SPDX-License-Identifier: Apache-2.0
"""From a configuration to all that a run needs; what several ranks share is made by the first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import cast

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn

from lidar_kd.bundle import BundleSpec, IntensitySpec, ModelSpec, read_spec
from lidar_kd.cli.console import Console
from lidar_kd.errors import DataError
from lidar_kd.models import build_model
from lidar_kd.segmenter import choose_device
from lidar_kd.sparse import select_engine
from training.data.batch import TeacherInput
from training.data.class_counts import CACHE, count_classes
from training.data.instances import build_paste_bank
from training.data.loader import Loader, TrainingScans
from training.data.scan import Scan, Scans, ScanSet
from training.methods import build_methods
from training.methods.inputs import class_weights, LabelStatistics, Widths
from training.methods.supervised import Supervised
from training.run.config import Config, MAIN
from training.run.folder import RunFolder
from training.run.loop import Parts
from training.run.loss import DistillationLoss, Teacher, TeacherNetwork
from training.run.ranks import Ranks
from training.run.sources import fuse, open_sources, Several, Sources
from training.run.synced_norm import synchronise_norms
from training.run.teacher_cache import CachedTeacher
from training.run.teachers import FrozenTeacher
from training.run.warm_start import warm_start

Counts = NDArray[np.int64]
Teachers = Mapping[str, FrozenTeacher]  # those that a configuration asks, by name


def prepare_machine(config: Config, ranks: Ranks) -> torch.device:
    """Seed, threads and device."""
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    if device.type == 'cuda' and ranks.world > 1:
        device = torch.device('cuda', ranks.local)
    select_engine(device).memory.tune(live=False)
    return device


def build_parts(
    config: Config,
    sources: Sources,
    folder: RunFolder,
    console: Console,
    ranks: Ranks,
    teachers: Teachers,
) -> Parts:
    """`sources` are open; the device is chosen and the seed set here."""
    device = prepare_machine(config, ranks)
    teacher_inputs = find_teacher_inputs(config, teachers)
    with ranks.first_one_first():
        learning = _scans_to_learn_from(config, sources, teacher_inputs, console)
        counts = _count(sources.train, console)
    if not counts.sum() and not config.learns_from_teacher:
        raise DataError(
            f'{sources.train.root}: no point of its {len(sources.train)} scans has a label that '
            'counts; change data.train.'
        )
    spec = describe(config, sources, teachers)
    student = _build_student(config, spec, ranks)
    loader = Loader(
        learning,
        config.model.grid,
        batch_size=config.optim.batch_size,
        teacher_inputs=list(teacher_inputs.values()),
        workers=config.data.workers,
        rank=ranks.rank,
        world=ranks.world,
    )
    return Parts(
        config=config,
        distillation=_build_distillation(
            config, student, teachers, teacher_inputs, sources, counts
        ),
        spec=spec,
        loader=loader,
        validation=fuse(sources.validation, sources.scored, config.data, console)
        if config.data.fusion
        else sources.validation,
        folder=folder,
        device=device,
        ranks=ranks,
    )


def find_teacher_inputs(config: Config, teachers: Teachers) -> dict[str, TeacherInput]:
    """How each teacher looks at the scans."""
    if config.is_its_own_teacher:
        return {MAIN: TeacherInput(config.model.grid, fused=True)}
    return {
        name: TeacherInput(
            teacher.spec.grid,
            fused=config.is_shown_the_past(name),
            augmented=not config.asked_teachers[name].cache,
        )
        for name, teacher in teachers.items()
    }


def describe(config: Config, sources: Sources, teachers: Teachers) -> BundleSpec:
    """What the student's bundle will say of itself."""
    facts = {
        'run': config.name,
        'seed': str(config.seed),
        'date': date.today().isoformat(),
        'data': f'{config.data.kind}, {len(sources.train)} scans',
    }
    if config.model.warm_start is not None:
        facts['warm_start'] = read_spec(config.model.warm_start).run_or(
            config.model.warm_start.stem
        )
    if teachers:
        names = dict.fromkeys(teacher.name for teacher in teachers.values())
        facts |= {'teacher': ', '.join(names), 'method': config.taught_by}
    elif config.is_its_own_teacher:
        facts |= {'teacher': 'itself, on fused scans', 'method': config.taught_by}
    return BundleSpec(
        model=ModelSpec(name=config.model.name, settings=config.model.settings),
        grid=config.model.grid,
        intensity=IntensitySpec(scale=config.data.intensity_scale, source=config.data.kind),
        labels=sources.train.table,
        provenance=facts,
    )


def open_sources_once(config: Config, console: Console, ranks: Ranks) -> Sources:
    with ranks.first_one_first():
        return open_sources(config.data, console)


def _build_student(config: Config, spec: BundleSpec, ranks: Ranks) -> nn.Module:
    classes = spec.labels.num_classes
    student = build_model(config.model.name, classes=classes, **config.model.settings)
    if config.model.warm_start is not None:
        warm_start(config.model.warm_start, student, spec)
    if ranks.world > 1 and config.optim.sync_norms:
        synchronise_norms(student)
    return student


def _build_distillation(
    config: Config,
    student: nn.Module,
    teachers: Teachers,
    teacher_inputs: Mapping[str, TeacherInput],
    sources: Sources,
    counts: Counts,
) -> DistillationLoss:
    weights = class_weights(counts, power=config.loss.class_power)
    supervised = Supervised(config.loss, torch.from_numpy(weights))
    if not teacher_inputs:
        return DistillationLoss(student, supervised)
    networks = {MAIN: student} | {name: each.network for name, each in teachers.items()}
    methods = build_methods(
        config.methods,
        student=widths_of(student, sources.train),
        teachers={
            method: widths_of(networks[config.teacher_of(method)], sources.train)
            for method in config.method
        },
        statistics=LabelStatistics(
            table=sources.train.table, class_shares=counts / max(1, counts.sum())
        ),
        grid=config.model.grid,
    )
    return DistillationLoss(
        student,
        supervised,
        methods=methods,
        teachers={
            name: Teacher(_remember(config, name, teacher), teacher_inputs[name])
            for name, teacher in teachers.items()
        },
        itself=teacher_inputs[MAIN] if config.is_its_own_teacher else None,
        pseudo_label_confidence=config.teacher.pseudo_labels if config.teacher else None,
    )


def _remember(config: Config, name: str, teacher: FrozenTeacher) -> TeacherNetwork:
    """The teacher, or what it has answered before if the configuration keeps that."""
    if not config.asked_teachers[name].cache:
        return teacher
    return CachedTeacher(teacher, CACHE / teacher.sha256)


def widths_of(network: nn.Module, scans: ScanSet) -> Widths:
    return Widths(
        classes=scans.table.num_classes,
        point=cast(int, network.point_width),
        voxel=cast(int, network.voxel_width),
        early=cast(int | None, network.early_width),
    )


def _scans_to_learn_from(
    config: Config, sources: Sources, teacher_inputs: Mapping[str, TeacherInput], console: Console
) -> TrainingScans:
    data, train = config.data, sources.train
    bank: list[Scan] = []
    if data.augment.paste:
        with console.progress(len(train), 'cutting out objects to paste') as advance:
            bank = build_paste_bank(train, seed=config.seed, advance=advance)
    fused = data.fusion or any(teacher_input.fused for teacher_input in teacher_inputs.values())
    own = fuse(train, train, data, console) if fused else train
    chosen: Scans = own
    if sources.unlabelled and teacher_inputs and not config.is_its_own_teacher:
        chosen = Several([own, *sources.unlabelled])
    return TrainingScans(
        chosen,
        data.augment,
        seed=config.seed,
        bank=bank,
        intensity_scale=data.intensity_scale,
        keep_unmoved=not all(teacher_input.augmented for teacher_input in teacher_inputs.values()),
    )


def _count(train: ScanSet, console: Console) -> Counts:
    with console.progress(len(train), 'counting classes') as advance:
        return count_classes(train, advance=advance)

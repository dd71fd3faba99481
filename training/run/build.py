# SPDX-License-Identifier: Apache-2.0
"""From a configuration to all that a run needs; what several ranks share is made by the first."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn

from lidar_kd.cli.console import Console
from lidar_kd.errors import DataError
from lidar_kd.segmenter import choose_device
from lidar_kd.sparse import select_engine
from training.data.batch import AnyGrid
from training.data.class_counts import CACHE, count_classes
from training.data.instances import build_paste_bank
from training.data.loader import Loader, TrainingScans
from training.data.scan import Scan, Scans, ScanSet
from training.data.settings import Data
from training.methods import build_methods
from training.methods.inputs import class_weights, LabelStatistics
from training.methods.supervised import Merged, Supervised, SupervisedSettings
from training.methods.weights import shares_as_numbers
from training.run.config import Config, MAIN, Methods
from training.run.folder import RunFolder
from training.run.loop import Parts
from training.run.loss import DistillationLoss, Method, Teacher, TeacherNetwork
from training.run.ranks import Ranks
from training.run.sources import fuse_scans, open_sources, Several, Sources
from training.run.student import build_student, describe_student, find_provenance, widths_of
from training.run.teacher_cache import CachedTeacher
from training.run.teachers import FrozenTeacher
from training.run.teaching import PlannedTeacher, TeachingPlan

Counts = NDArray[np.int64]


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


def open_sources_once(data: Data, console: Console, ranks: Ranks) -> Sources:
    with ranks.first_one_first():
        return open_sources(data, console)


def build_parts(
    config: Config,
    sources: Sources,
    folder: RunFolder,
    console: Console,
    ranks: Ranks,
    plan: TeachingPlan,
) -> Parts:
    """`sources` are open; the device is chosen and the seed set here."""
    device = prepare_machine(config, ranks)
    train, data = sources.train, config.data
    with ranks.first_one_first():
        learning = choose_scans(data, config.seed, sources, plan, console)
        counts = _count(train, console)
    if not counts.sum() and not config.learns_from_teacher:
        raise DataError(
            f'{train.root}: no point of its {len(train)} scans has a label that counts; change '
            'data.train.'
        )
    facts = find_provenance(config, len(train), plan)
    spec = describe_student(config.model, data, train.table, facts)
    synchronised = ranks.world > 1 and config.optim.sync_norms
    student = build_student(config.model, spec, synchronised=synchronised)
    statistics = LabelStatistics(table=train.table, class_shares=counts / max(1, counts.sum()))
    supervised = make_supervised(config.loss, counts, sources.merged)
    methods = make_methods(config.methods, student, plan, statistics, config.model.grid)
    if not counts.sum() and plan.pseudo_label_confidence is None:
        for method in methods.values():
            cast(Method, method).weights = shares_as_numbers(cast(Method, method).weights)
    loader = Loader(
        learning,
        config.model.grid,
        batch_size=config.optim.batch_size,
        teacher_inputs=plan.inputs,
        workers=data.workers,
        rank=ranks.rank,
        world=ranks.world,
    )
    return Parts(
        config=config,
        distillation=make_distillation(student, supervised, methods, plan),
        spec=spec,
        loader=loader,
        validation=fuse_scans(sources.validation, sources.scored, data, console)
        if plan.scans_are_fused
        else sources.validation,
        folder=folder,
        device=device,
        ranks=ranks,
    )


def make_supervised(
    settings: SupervisedSettings, counts: Counts, merged: Merged = ()
) -> Supervised:
    weights = class_weights(counts, power=settings.class_power)
    return Supervised(settings, torch.from_numpy(weights), merged)


def make_methods(
    settings: Methods,
    student: nn.Module,
    plan: TeachingPlan,
    statistics: LabelStatistics,
    grid: AnyGrid,
) -> nn.ModuleDict:
    """Each method with adapters between the widths of the student and of the teacher it asks."""
    if not plan.teachers:
        return nn.ModuleDict()
    classes = statistics.table.num_classes
    itself = widths_of(student, classes)
    widths = {
        name: widths_of(teacher.network, None if teacher.by_features else classes)
        for name, teacher in plan.networks.items()
    }
    return build_methods(
        settings,
        student=itself,
        teachers={method: widths.get(name, itself) for method, name in plan.of_method.items()},
        statistics=statistics,
        grid=grid,
    )


def make_distillation(
    student: nn.Module, supervised: Supervised, methods: nn.ModuleDict, plan: TeachingPlan
) -> DistillationLoss:
    """The loss of a step, with the teachers that it asks."""
    return DistillationLoss(
        student,
        supervised,
        methods=methods,
        teachers={
            name: Teacher(_remember(network, plan.teachers[name]), plan.teachers[name].looks)
            for name, network in plan.networks.items()
        },
        itself=plan.teachers[MAIN].looks if plan.is_its_own else None,
        pseudo_label_confidence=plan.pseudo_label_confidence,
    )


def _remember(network: FrozenTeacher, planned: PlannedTeacher) -> TeacherNetwork:
    """The teacher, or what it has answered before if the plan keeps that."""
    return CachedTeacher(network, CACHE / network.sha256) if planned.is_cached else network


def choose_scans(
    data: Data, seed: int, sources: Sources, plan: TeachingPlan, console: Console
) -> TrainingScans:
    """The scans to learn from, augmented; those that nobody labelled where a teacher does."""
    train = sources.train
    bank: list[Scan] = []
    if data.augment.paste:
        with console.progress(len(train), 'cutting out objects to paste') as advance:
            bank = build_paste_bank(train, seed=seed, advance=advance)
    own = fuse_scans(train, train, data, console) if plan.needs_the_past else train
    more = sources.unlabelled if plan.explains_unlabelled else ()
    chosen: Scans = own
    if sources.labelled or more:
        chosen = Several([own, *sources.labelled, *more])
    return TrainingScans(
        chosen,
        data.augment,
        seed=seed,
        bank=bank,
        intensity_scale=data.intensity_scale,
        keep_unmoved=plan.keeps_unmoved,
    )


def _count(train: ScanSet, console: Console) -> Counts:
    with console.progress(len(train), 'counting classes') as advance:
        return count_classes(train, advance=advance)

# SPDX-License-Identifier: Apache-2.0
"""The student: the network that is trained, and what its bundle will say of it."""

from __future__ import annotations

from datetime import date
from typing import cast

from torch import nn

from lidar_kd.bundle import BundleSpec, IntensitySpec, ModelSpec, read_spec, SensorSpec
from lidar_kd.labels import ClassTable
from lidar_kd.models import build_model
from training.data.settings import Data, DataSource, LabelledSource
from training.methods.inputs import Widths
from training.run.config import Config, NetworkSettings
from training.run.synced_norm import synchronise_norms
from training.run.teaching import TeachingPlan
from training.run.warm_start import warm_start
from training.streets.sensors import sensor

GROUND_INTENSITY = 0.3  # of the streets: median of their ground near the sensor


def describe_student(
    model: NetworkSettings, data: Data, labels: ClassTable, facts: dict[str, str]
) -> BundleSpec:
    return BundleSpec(
        model=ModelSpec(name=model.name, settings=model.settings),
        grid=model.grid,
        intensity=IntensitySpec(scale=data.intensity_scale, source=data.kind),
        sensor=describe_sensor(data),
        labels=labels,
        provenance=facts,
    )


def describe_sensor(data: Data) -> SensorSpec | None:
    """As the configuration tells it, or of the streets; a data set's is known by its kind."""
    if data.sensor is not None:
        return data.sensor
    if data.kind != 'streets':
        return None
    return SensorSpec(
        height_m=sensor(data.streets.sensor).height_m, ground_intensity=GROUND_INTENSITY
    )


def find_provenance(config: Config, scans: int, plan: TeachingPlan) -> dict[str, str]:
    """What a bundle says about the run that made it."""
    facts = {
        'run': config.name,
        'seed': str(config.seed),
        'date': date.today().isoformat(),
        'data': f'{_name_data(config.data)}, {scans} scans',
    }
    more = [*config.data.labelled, *config.data.unlabelled]
    if more:
        facts['more_data'] = ', '.join(_name_source(source, config.data) for source in more)
    start = config.model.warm_start
    if start is not None:
        facts['warm_start'] = read_spec(start).run_or(start.stem)
    if plan.teachers:
        names = dict.fromkeys(teacher.name for teacher in plan.networks.values())
        facts['teacher'] = 'itself, on fused scans' if plan.is_its_own else ', '.join(names)
        facts['method'] = config.taught_by
    return facts


def _name_data(data: Data) -> str:
    """By its folder, too: simulated scans often lie in the layout of a data set."""
    if data.kind == 'streets' or data.root is None:
        return data.kind
    return f'{data.root.resolve().name} in the layout of {data.kind}'


def _name_source(source: DataSource, data: Data) -> str:
    """By its folder, not where that lies on this machine: whose licence counts, too."""
    root = source.root or data.root
    labels = '' if isinstance(source, LabelledSource) else ' without labels'
    return f'{root.resolve().name if root else source.kind}{labels}'


def build_student(model: NetworkSettings, spec: BundleSpec, *, synchronised: bool) -> nn.Module:
    """synchronised: its batch norms see the scans of all ranks."""
    student = build_model(model.name, classes=spec.labels.num_classes, **model.settings)
    if model.warm_start is not None:
        warm_start(model.warm_start, student, spec)
    if synchronised:
        synchronise_norms(student)
    return student


def widths_of(network: nn.Module, classes: int | None) -> Widths:
    return Widths(
        classes=classes,
        point=cast(int, network.point_width),
        voxel=cast(int, network.voxel_width),
        early=cast(int | None, network.early_width),
    )

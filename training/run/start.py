# SPDX-License-Identifier: Apache-2.0
"""A network that begins with the weights of a bundle: to tune it to a robot's own scans."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lidar_kd.bundle import BundleSpec, load_bundle, read_spec
from lidar_kd.errors import ConfigError
from lidar_kd.models import build_model

Shapes = dict[str, torch.Size]


def begin_with(path: Path, network: nn.Module, ours: BundleSpec) -> None:
    """Takes the bundle's weights; what tells the classes of another table apart starts anew."""
    bundle = load_bundle(path)
    _check(bundle.spec, ours, str(path))
    known = bundle.model.state_dict()
    if bundle.spec.labels != ours.labels:
        known = {name: known[name] for name in known.keys() - _names_by_classes(ours)}
    network.load_state_dict(known, strict=False)


def name_of(path: Path) -> str:
    """The run that made the bundle: files of all runs are called alike."""
    return read_spec(path).provenance.get('run', path.stem)


def _check(theirs: BundleSpec, ours: BundleSpec, where: str) -> None:
    by_classes = _names_by_classes(ours)
    trunks = [
        {name: shape for name, shape in _shapes(spec).items() if name not in by_classes}
        for spec in (theirs, ours)
    ]
    if trunks[0] != trunks[1]:
        raise ConfigError(
            f'{where}: its network, {_describe(theirs)}, has other layers than the one to train, '
            f'{_describe(ours)}; set model.name and model.settings to those of the bundle.'
        )
    if theirs.intensity.scale != ours.intensity.scale:
        raise ConfigError(
            f'{where}: it was trained with intensity times {theirs.intensity.scale:g}, '
            f'data.intensity_scale is {ours.intensity.scale:g}; set it to the same.'
        )


def _describe(spec: BundleSpec) -> str:
    settings = [f'{name} {value}' for name, value in spec.model.settings.items()]
    return ' '.join([spec.model.name, *settings])


def _names_by_classes(spec: BundleSpec) -> set[str]:
    """Of the tensors whose shape depends on the number of classes."""
    shapes, others = _shapes(spec), _shapes(spec, more_classes=1)
    return {name for name, shape in shapes.items() if others[name] != shape}


def _shapes(spec: BundleSpec, *, more_classes: int = 0) -> Shapes:
    classes = spec.labels.num_classes + more_classes
    with torch.device('meta'):
        network = build_model(spec.model.name, classes=classes, **spec.model.settings)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}

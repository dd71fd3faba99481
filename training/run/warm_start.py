# SPDX-License-Identifier: Apache-2.0
"""A warm start: the weights of a bundle instead of random ones.

To tune a network to a robot's own scans.
"""

from __future__ import annotations

from inspect import signature
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lidar_kd.bundle import BundleSpec, load_bundle
from lidar_kd.errors import ConfigError
from lidar_kd.models import build_model, MODELS, PRESETS
from training.run.teachers import check_intensity

Shapes = dict[str, torch.Size]
_NO_ANSWER = {'classes', 'drop_path', 'dropout', 'checkpointing'}  # settings that change none


def warm_start(path: Path, network: nn.Module, ours: BundleSpec) -> None:
    """Takes the bundle's weights; what tells the classes of another table apart starts anew."""
    bundle = load_bundle(path)
    check_intensity(bundle.spec, ours.intensity.scale, str(path))
    by_classes, known = _names_by_classes(network, ours), bundle.model.state_dict()
    trunks = [
        {name: shape for name, shape in _shapes(model).items() if name not in by_classes}
        for model in (bundle.model, network)
    ]
    if trunks[0] != trunks[1]:
        raise ConfigError(
            f'{path}: its network, {_describe(bundle.spec)}, has other layers than the one to '
            f'train, {_describe(ours)}; set model.name and model.settings to those of the bundle.'
        )
    theirs, own = _whole(bundle.spec), _whole(ours)
    other = [f'{key} {theirs[key]} -> {own[key]}' for key in own if theirs[key] != own[key]]
    if other:
        raise ConfigError(
            f'{path}: its network, of the same layers, computes otherwise ({", ".join(other)}); '
            'set model.settings to those of the bundle.'
        )
    if bundle.spec.labels != ours.labels:
        known = {name: known[name] for name in known.keys() - by_classes}
    network.load_state_dict(known, strict=False)


def _describe(spec: BundleSpec) -> str:
    settings = [f'{name} {value}' for name, value in spec.model.settings.items()]
    return ' '.join([spec.model.name, *settings])


def _whole(spec: BundleSpec) -> dict[str, Any]:
    """All that the answers of a network depend on: its settings and what it has for the others."""
    model, preset = PRESETS.get(spec.model.name, (spec.model.name, {}))
    named = {key: p.default for key, p in signature(MODELS[model]).parameters.items()}
    whole = {**named, **preset, **spec.model.settings}
    plain = json.dumps({k: v for k, v in whole.items() if k not in _NO_ANSWER})
    as_stored: dict[str, Any] = json.loads(plain)  # tuples are lists in a bundle
    return as_stored


def _names_by_classes(network: nn.Module, spec: BundleSpec) -> set[str]:
    """Of the tensors whose shape depends on the number of classes."""
    with torch.device('meta'):
        one_more = spec.labels.num_classes + 1
        other = _shapes(build_model(spec.model.name, classes=one_more, **spec.model.settings))
    return {name for name, shape in _shapes(network).items() if other[name] != shape}


def _shapes(network: nn.Module) -> Shapes:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}

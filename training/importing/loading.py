# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint's tensors to a network that has every one of them in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn, Tensor

from lidar_kd.errors import BundleError
from lidar_kd.labels import ClassTable, NO_CLASSES
from lidar_kd.models import build_model
from training.importing.reading import NOT_STORED
from training.importing.renaming import Family, listed, StateDict


def settings_of(state: StateDict, family: Family, source: object) -> dict[str, Any]:
    try:
        return family.settings(state)
    except KeyError as error:
        raise BundleError(
            f'{source}: no {family.model} checkpoint, {error} is missing: choose another --network'
        ) from None
    except BundleError as error:
        raise BundleError(f'{source}: {error}') from None


def load(
    state: StateDict,
    family: Family,
    source: object = 'checkpoint',
    *,
    partial: ClassTable | None = None,
    headless: bool = False,
) -> nn.Module:
    """The network with every tensor of the checkpoint in its place, or a sentence why not.

    partial: what the checkpoint lacks (a head for these classes) stays random, and tensors that
    have no place are left out. headless: its head, if it has one, is left out and answers nothing.
    """
    settings = settings_of(state, family, source)
    if partial is not None or headless:
        settings['classes'] = (partial or NO_CLASSES).num_classes
    elif settings['classes'] is None:
        raise BundleError(
            f'{source}: has no head: pass --partial to keep a random one, and train it, or '
            f'--labels {NO_CLASSES.name} for a teacher by its features alone'
        )
    names, model = family.names(state), build_model(family.model, **settings)
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith(NOT_STORED)}
    tensors = family.arranged(state) if family.arranged else state
    found = {names[name]: family.weight(name, tensors[name]) for name in state if name in names}
    if headless:
        expected, found = _without_head(expected), _without_head(found)
        for part in model.get_submodule('head').parameters():
            nn.init.zeros_(part)
    problems = {
        'not known': [
            name for name in state if name not in names and not name.startswith(family.unused)
        ],
        'missing': sorted(expected.keys() - found.keys()),
        'without a place': sorted(found.keys() - expected.keys()),
        'of another shape': [
            f'{name} {shape_of(found[name])} instead of {shape_of(tensor)}'
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    if problems['of another shape'] or (partial is None and any(problems.values())):
        detail = '; '.join(f'{len(n)} {kind}: {listed(n)}' for kind, n in problems.items() if n)
        raise BundleError(
            f'{source}: not loaded, the tensors are not those of a {family.model} ({detail}): '
            'choose another --network, a complete checkpoint, or --partial'
        )
    model.load_state_dict(found, strict=False)  # the check above was the strict one
    return model.eval()


def _without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith('head.')}


def shape_of(tensor: Tensor) -> str:
    return ' x '.join(map(str, tensor.shape)) or 'scalar'

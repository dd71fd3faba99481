# SPDX-License-Identifier: Apache-2.0
"""Which label table a checkpoint answers in, and in which order it has the classes."""

from __future__ import annotations

from collections.abc import Sequence
import re

import torch
from torch import nn

from lidar_kd.errors import BundleError
from lidar_kd.labels import ClassTable, NUSCENES, SEMANTICKITTI

TABLES = (SEMANTICKITTI, NUSCENES)
# as mmdet3d spells SemanticKITTI's
ALIASES = {'bus': 'other-vehicle', 'trunck': 'trunk', 'terrian': 'terrain'}


def table_of(names: Sequence[str] | None, classes: int | None) -> ClassTable | None:
    """The table with these names, or with so many classes; None: there is no such table."""
    for labels in TABLES:
        if names is not None and _order(names, labels) is not None:
            return labels
        if names is None and labels.num_classes == classes:
            return labels
    return None


def order_of(names: Sequence[str], labels: ClassTable) -> list[int]:
    """Where the classes of the table stand among the names of a configuration."""
    order = _order(names, labels)
    if order is None:
        raise BundleError(
            f'names: {", ".join(names)} are not the classes of the label table {labels.name}: '
            'choose its own with --labels, or give them in its words by --set names=[...]'
        )
    return order


def put_in_order(model: nn.Module, order: Sequence[int]) -> None:
    """The head's rows, one per class."""
    with torch.no_grad():
        for part in model.get_submodule('head').parameters():
            part.copy_(part[list(order)])


def _order(names: Sequence[str], labels: ClassTable) -> list[int] | None:
    wanted = [_plain(name) for name in labels.names]
    own = [_plain(name) for name in names]
    if 'other-vehicle' in wanted:
        own = [ALIASES.get(name, name) for name in own]
    return [own.index(name) for name in wanted] if sorted(own) == sorted(wanted) else None


def _plain(name: object) -> str:
    """Spelt with capitals, blanks or underscores it is the same class."""
    return re.sub(r'[\s_-]+', '-', str(name).strip().lower())

# SPDX-License-Identifier: Apache-2.0
"""Two bundles of one network become one: the weights between theirs (Wortsman et al., 2022).

A network that was tuned to new data and the one that it began from lie in one basin of the loss;
between them it often keeps what it knew and has what is new.
"""

from __future__ import annotations

from lidar_kd.bundle import Bundle
from lidar_kd.errors import BundleError
from lidar_kd.models import build_model


def average_bundles(tuned: Bundle, before: Bundle, share: float) -> Bundle:
    """share: of `tuned`, whose description it keeps; the rest is of `before`."""
    for what in ('model', 'grid', 'labels'):
        if getattr(tuned.spec, what) != getattr(before.spec, what):
            raise BundleError(
                f'{before.path}: its {what} is not that of the run; give a bundle that differs '
                'in nothing but its weights.'
            )
    ours, theirs = tuned.model.state_dict(), before.model.state_dict()
    weights = {
        name: share * tensor + (1 - share) * theirs[name] if tensor.is_floating_point() else tensor
        for name, tensor in ours.items()
    }
    spec = tuned.spec
    model = build_model(spec.model.name, classes=spec.labels.num_classes, **spec.model.settings)
    model.load_state_dict(weights)
    fact = f'{share:g} of this run, {1 - share:g} of {before.spec.run_or(before.name)}'
    facts = {**spec.provenance, 'averaged': fact}
    return Bundle(model=model.eval(), spec=spec.model_copy(update={'provenance': facts}))

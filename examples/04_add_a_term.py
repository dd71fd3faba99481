# SPDX-License-Identifier: Apache-2.0
"""Adds a term to PVKD, then distils with it: python examples/04_add_a_term.py --set KEY=VALUE ...

The term: teacher and student should be as certain of every voxel (mean squared entropies).
"""

from pathlib import Path
import sys
from typing import Any

sys.path[0] = str(ROOT := Path(__file__).resolve().parents[1])

import numpy as np
from torch import Tensor

from training.methods import METHODS
from training.methods.inputs import Inputs
from training.methods.pvkd import Pvkd
from training.run.perform import distill, main


def entropy(logits: Tensor) -> Tensor:
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


class CertainPvkd(Pvkd):
    def __init__(self, *settings: Any, **networks: Any) -> None:
        super().__init__(*settings, **networks)
        self.weights['pvkd.certainty'] = 0.1

    def forward(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        ours, theirs = (x.voxel_logits().float() for x in (inputs.student, inputs.teacher))
        gap = (entropy(ours) - entropy(theirs)).square().mean()
        return {**super().forward(inputs, rng), 'pvkd.certainty': gap}


if __name__ == '__main__':
    METHODS['pvkd'] = CertainPvkd
    sys.exit(main(__doc__ or '', distill, ROOT / 'config/pvkd.yaml'))

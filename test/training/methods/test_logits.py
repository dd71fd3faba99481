# SPDX-License-Identifier: Apache-2.0
"""What both networks say, and how much each row of it counts."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest
import torch

from lidar_kd.labels import SEMANTICKITTI
from training.methods.inputs import LabelStatistics
from training.methods.logits import LogitPair

CLASSES, CAR, PERSON = 19, 0, 5
SHARES = np.array([0.5] + [0.005] * 8 + [0.046] * 10)
CONTEXT = LabelStatistics(table=SEMANTICKITTI, class_shares=SHARES)


def test_rows_count_by_the_rarity_of_the_class_that_the_teacher_says() -> None:
    # the teacher says car in one row and person in another; CONTEXT tells how frequent they are
    ours, theirs = torch.zeros(2, CLASSES), torch.zeros(2, CLASSES)
    theirs[0, CAR] = theirs[1, PERSON] = 3.0
    of_class = CONTEXT.class_weights(0.5)
    assert of_class is not None
    shares = CONTEXT.class_shares
    ratio = math.sqrt(shares[CAR] / shares[PERSON])
    assert of_class[PERSON] / of_class[CAR] == pytest.approx(ratio, rel=1e-5)
    said = LogitPair(student=ours, teacher=theirs)
    weight = said.weigh(None, of_class)
    assert weight is not None
    assert weight.tolist() == [of_class[CAR], of_class[PERSON]]
    # a row that speaks for three points, one of them not chosen, counts twice
    said = replace(said, row=torch.tensor([0, 0, 0, 1]))
    chosen = torch.tensor([True, False, True, True])
    weight = said.weigh(chosen, of_class)
    assert weight is not None
    assert weight.tolist() == [2 * of_class[CAR], of_class[PERSON]]

# SPDX-License-Identifier: Apache-2.0
"""Affinity terms: how alike the members of a box or of an object are, to student and teacher.

K sets of at most n members, D channels: features (K, n, D), valid (K, n). Rows are scaled to
length 1, so neither width nor scale of the features counts; a row that is no member adds nothing.
"""

from __future__ import annotations

from torch import Tensor

from training.methods.terms import float32, unit_rows


def cosine_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """(K,) mean over pairs of members of (cos_S - cos_T)^2; PVKD's affinity.

    |S S' - T T'|^2 = |S' S|^2 + |T' T|^2 - 2 |T' S|^2 for S (n, D): the n x n matrices are never
    made. In float64, for the three nearly cancel once the student is good.
    """
    with float32(student):
        s = unit_rows(student, valid).double()
        t = unit_rows(teacher.detach(), valid).double()
        squares = _square(s, s) + _square(t, t) - 2 * _square(t, s)
        return (squares / _pairs(valid)).float()


def distance_mse(student: Tensor, teacher: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """(K,) mean over pairs of (w |S_a - S_b|^2 - w |T_a - T_b|^2)^2, weight (K,); SRKD's affinity.

    Between directions |a - b|^2 = 2 - 2 cos(a, b), so it is 4 w^2 times the cosine form.
    """
    return 4 * weight.square() * cosine_mse(student, teacher, valid)


def cosine_l1(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """(K,) mean over pairs of members of |cos_S - cos_T|; M2SKD's affinity of one object."""
    with float32(student):
        s, t = unit_rows(student, valid), unit_rows(teacher.detach(), valid)
        difference = s @ s.mT - t @ t.mT
        return difference.abs().sum((1, 2)) / _pairs(valid)


def mean_over_sets(each: Tensor) -> Tensor:
    """(K,) -> (); 0 where there is no set."""
    return each.sum() / max(1, len(each))


def _square(left: Tensor, right: Tensor) -> Tensor:
    """(K,) squared Frobenius norm of left' right."""
    return (left.mT @ right).square().sum((1, 2))


def _pairs(valid: Tensor) -> Tensor:
    return valid.sum(1).square().clamp(min=1)

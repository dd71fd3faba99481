# SPDX-License-Identifier: Apache-2.0
"""Every distillation term against loops, hand-computed cases and what must not change it."""

from __future__ import annotations

from collections.abc import Callable
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, Tensor
from torch.nn.functional import cosine_similarity

from training.methods.affinity import cosine_l1, cosine_mse, distance_mse
from training.methods.relations import cross_relation
from training.methods.terms import (
    Adapter,
    channel_divergence,
    divergence,
    feature_distance,
    feature_mse,
    unit_rows,
)

N, SETS = 12, 3


def made_up(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Terms by name, as functions of what student and teacher say: (sets, rows, channels) each.
ALL_VALID = torch.ones(SETS, N, dtype=torch.bool)
BOX_WEIGHTS = torch.tensor([0.5, 1.0, 0.1])
TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'divergence': lambda s, t: divergence(s.flatten(0, 1), t.flatten(0, 1), tau=2.0),
    'features': feature_distance,
    'squares': feature_mse,
    'channels': lambda s, t: channel_divergence(s.flatten(0, 1), t.flatten(0, 1), tau=2.0),
    'relation': lambda s, t: cross_relation(s.unbind(), t.unbind(), tau=0.1),
    'cosine': lambda s, t: cosine_mse(s, t, ALL_VALID).mean(),
    'distance': lambda s, t: distance_mse(s, t, ALL_VALID, BOX_WEIGHTS).mean(),
    'object': lambda s, t: cosine_l1(s, t, ALL_VALID).mean(),
}
AFFINITIES = ('relation', 'cosine', 'distance', 'object')
each_term = pytest.mark.parametrize('name', TERMS)
each_affinity = pytest.mark.parametrize('name', AFFINITIES)


@each_term
def test_identical_networks_have_nothing_to_learn(name: str) -> None:
    said = made_up(SETS, N, 5).requires_grad_()
    loss = TERMS[name](said, said)
    loss.backward()
    assert loss == 0
    assert said.grad is not None
    assert said.grad.abs().max() < 1e-6


@each_term
def test_different_networks_differ_and_only_the_student_learns(name: str) -> None:
    student, teacher = made_up(SETS, N, 5).requires_grad_(), made_up(SETS, N, 5, seed=1)
    loss = TERMS[name](student, teacher.requires_grad_())
    loss.backward()
    assert loss > 1e-3
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@each_term
def test_the_order_of_the_points_does_not_matter(name: str) -> None:
    student, teacher = made_up(SETS, N, 5), made_up(SETS, N, 5, seed=1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    permuted = TERMS[name](student[:, order], teacher[:, order])
    torch.testing.assert_close(permuted, TERMS[name](student, teacher))


@each_affinity
def test_affinities_do_not_see_the_scale_of_the_features(name: str) -> None:
    student, teacher = made_up(SETS, N, 5), made_up(SETS, N, 5, seed=1)
    scaled = TERMS[name](student * 7, teacher * 0.2)
    torch.testing.assert_close(scaled, TERMS[name](student, teacher))


@each_affinity
def test_affinities_compare_networks_of_different_widths(name: str) -> None:
    assert TERMS[name](made_up(SETS, N, 5), made_up(SETS, N, 9)) > 0


@each_term
def test_terms_are_float32_under_autocast(name: str) -> None:
    student, teacher = made_up(SETS, N, 5), made_up(SETS, N, 5, seed=1)
    with torch.autocast('cpu', torch.bfloat16):
        inside = TERMS[name](student, teacher)
        of_half = TERMS[name](student.bfloat16(), teacher.bfloat16())
    assert inside.dtype == of_half.dtype == torch.float32
    assert torch.equal(inside, TERMS[name](student, teacher))


@each_term
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    student, teacher = made_up(SETS, N, 4).requires_grad_(), made_up(SETS, N, 4, seed=1)
    TERMS[name](student, teacher).backward()
    direction, step = made_up(SETS, N, 4, seed=2), 1e-2
    with torch.no_grad():
        ahead = TERMS[name](student + step * direction, teacher).double()
        behind = TERMS[name](student - step * direction, teacher).double()
    assert student.grad is not None
    expected = float((student.grad * direction).sum())
    assert float(ahead - behind) / (2 * step) == pytest.approx(expected, rel=0.02, abs=1e-4)


def test_a_divergence_worked_out_by_hand() -> None:
    # at tau 2 the teacher gives (3/4, 1/4), the student (1/2, 1/2):
    # 3/4 ln(3/2) + 1/4 ln(1/2), times tau^2 = 4
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert divergence(student, teacher, tau=2.0).item() == pytest.approx(by_hand)
    # a second row in which both agree halves the mean; a weight takes it out again
    both = torch.cat([student, student]), torch.cat([teacher, student])
    assert divergence(*both, tau=2.0).item() == pytest.approx(by_hand / 2)
    mask = torch.tensor([True, False])
    assert divergence(*both, tau=2.0, weight=mask).item() == pytest.approx(by_hand)


def test_a_mask_without_rows_gives_a_zero_that_can_be_trained_on() -> None:
    student = made_up(4, 3).requires_grad_()
    loss = divergence(
        student, made_up(4, 3, seed=1), tau=1.0, weight=torch.zeros(4, dtype=torch.bool)
    )
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0


def test_a_channel_is_compared_over_the_points_of_a_scan() -> None:
    # tau 1; channel 0: teacher (3/4, 1/4) against (1/2, 1/2); channel 1: the same for both
    teacher = torch.tensor([[math.log(3), 1.0], [0.0, 5.0]])
    student = torch.tensor([[2.0, 1.0], [2.0, 5.0]])
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert channel_divergence(student, teacher, tau=1.0).item() == pytest.approx(by_hand / 2)


def test_the_feature_term_is_a_share_of_the_teachers_squares() -> None:
    student, teacher = (
        torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
    )
    assert feature_distance(student, teacher) == (4 + 1) / 2
    assert feature_distance(torch.zeros(2, 2), 100 * teacher) == 1
    assert feature_distance(student[:0], teacher[:0]) == 0


def test_an_adapter_changes_width_only_where_it_must() -> None:
    features = made_up(4, 3)
    assert torch.equal(Adapter(3, 3)(features), features)
    assert list(Adapter(3, 3).parameters()) == []
    wider = Adapter(3, 8)
    with torch.autocast('cpu', torch.bfloat16):
        adapted = wider(features.bfloat16())
    assert adapted.shape == (4, 8)
    assert adapted.dtype == torch.float32


def cosines(features: Tensor) -> Tensor:
    return cosine_similarity(features[:, None], features[None], dim=2)


def test_box_affinities_equal_loops_over_pairs_and_padding_adds_nothing() -> None:
    student, teacher, lengths = made_up(SETS, N, 5), made_up(SETS, N, 7, seed=1), (12, 5, 1)
    valid = torch.arange(N) < torch.tensor(lengths)[:, None]
    weight = torch.tensor([0.3, 0.7, 0.2])
    for box, length in enumerate(lengths):
        s, t = student[box, :length], teacher[box, :length]
        loops = sum(
            (float(cosines(s)[a, b]) - float(cosines(t)[a, b])) ** 2
            for a in range(length)
            for b in range(length)
        )
        found = cosine_mse(student, teacher, valid)[box]
        assert found.item() == pytest.approx(loops / length**2, abs=1e-7)
        apart_s, apart_t = (
            torch.cdist(f / f.norm(dim=1, keepdim=True), f / f.norm(dim=1, keepdim=True))
            for f in (s, t)
        )
        expected = (weight[box] * (apart_s.square() - apart_t.square())).square().mean()
        found = distance_mse(student, teacher, valid, weight)[box]
        assert found.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
        found = cosine_l1(student, teacher, valid)[box]
        expected = (cosines(s) - cosines(t)).abs().mean()
        assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_faint_rows_have_neither_direction_nor_gradient() -> None:
    # lengths 5, 0, 0.01 and, no member, 100: the mean of the members is 1.67, a hundredth of that
    # is above 0.01
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.01, 0.0], [60.0, 80.0]]).requires_grad_()
    valid = torch.tensor([True, True, True, False])
    unit = unit_rows(rows, valid)
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8], [0, 0], [0, 0], [0, 0]]))
    unit[:, 0].sum().backward()
    assert rows.grad is not None
    # d (x / |x|) / dx = 1 / |x| - x^2 / |x|^3 = 0.2 - 0.072, d / dy = -x y / |x|^3
    torch.testing.assert_close(rows.grad[0], torch.tensor([0.128, -0.096]))
    assert (rows.grad[1:] == 0).all()


def test_a_dead_row_does_not_drown_the_gradient_of_the_others() -> None:
    student, teacher = made_up(1, N, 5), made_up(1, N, 7, seed=1)
    every, others = ALL_VALID[:1].clone(), ALL_VALID[:1].clone()
    student[0, 3], others[0, 3] = 0.0, False
    norms = []
    for valid in (every, others):
        said = student.clone().requires_grad_()
        cosine_mse(said, teacher, valid).sum().backward()
        assert said.grad is not None
        norms.append(float(said.grad.norm()) * float(valid.sum()) ** 2)
    assert norms[0] == pytest.approx(norms[1])


def test_features_without_a_direction_give_numbers() -> None:
    student, teacher = torch.zeros(1, 4, 3).requires_grad_(), made_up(1, 4, 3)
    valid = torch.ones(1, 4, dtype=torch.bool)
    loss = cosine_mse(student, teacher, valid) + cosine_l1(student, teacher, valid)
    loss = loss.sum() + cross_relation(student.unbind(), teacher.unbind(), tau=0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def naive_relation(student: list[Tensor], teacher: list[Tensor], tau: float) -> Tensor:
    """The formula, all pairs, row by row."""
    loss = torch.zeros(())
    for i in range(len(student)):
        for j in range(len(student)):
            pair = [
                cosine_similarity(f[i][:, None], f[j][None], dim=2) / tau
                for f in (student, teacher)
            ]
            p_s, p_t = (m.log_softmax(1) for m in pair)
            loss = loss + (p_t.exp() * (p_t - p_s)).sum(1).mean()
    return loss / len(student) ** 2


@pytest.mark.parametrize('tau', [0.05, 0.1, 2.0])
def test_the_relation_equals_the_formula_and_so_does_its_gradient(tau: float) -> None:
    sizes = (5, 8, 3)  # a scan may have fewer points than the others
    student = [made_up(n, 4, seed=n).requires_grad_() for n in sizes]
    teacher = [made_up(n, 6, seed=10 + n) for n in sizes]
    ours, naive = cross_relation(student, teacher, tau=tau), naive_relation(student, teacher, tau)
    torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-6)
    found = torch.autograd.grad(3 * ours, student)
    for mine, theirs in zip(found, torch.autograd.grad(3 * naive, student)):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_a_batch_of_one_relates_the_scan_to_itself() -> None:
    student, teacher = [made_up(6, 4)], [made_up(6, 4, seed=1)]
    torch.testing.assert_close(
        cross_relation(student, teacher, tau=0.1), naive_relation(student, teacher, 0.1)
    )


def test_a_scan_without_points_adds_nothing_to_the_relation() -> None:
    student, teacher = [made_up(6, 4), made_up(0, 4)], [made_up(6, 4, seed=1), made_up(0, 4)]
    alone = cross_relation(student[:1], teacher[:1], tau=0.1)
    torch.testing.assert_close(cross_relation(student, teacher, tau=0.1), alone / 4)


def test_at_the_published_temperature_the_relation_says_hardly_anything() -> None:
    student, teacher = (list(made_up(2, 1024, 32, seed=seed).unbind()) for seed in (0, 1))
    published = cross_relation(student, teacher, tau=2.0)
    assert 2e-3 < published < 2e-2  # about 5e-3, far below any loss
    assert cross_relation(student, teacher, tau=0.1) > 50 * published


SIZES_BY_RANK = ((5, 8), (3, 6))


def scans_of(rank: int) -> tuple[list[Tensor], list[Tensor]]:
    sizes = SIZES_BY_RANK[rank]
    student = [made_up(n, 4, seed=n).requires_grad_() for n in sizes]
    return student, [made_up(n, 6, seed=10 + n) for n in sizes]


def relate_on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    student, teacher = scans_of(rank)
    loss = cross_relation(student, teacher, tau=0.1)
    gradients = torch.autograd.grad(loss, student)
    np.savez(Path(folder) / f'{rank}.npz', loss.item(), *(g.numpy() for g in gradients))
    distributed.destroy_process_group()


def test_the_scans_of_all_ranks_relate_with_gradient(tmp_path: Path) -> None:
    statistics = multiprocessing.get_context('fork')  # spawn would import torch twice: 6 s
    ranks = [statistics.Process(target=relate_on_rank, args=(r, str(tmp_path))) for r in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
    assert [process.exitcode for process in ranks] == [0, 0]
    student, teacher = (a + b for a, b in zip(scans_of(0), scans_of(1)))
    whole = naive_relation(student, teacher, 0.1)
    expected = torch.autograd.grad(whole, student)
    found = [np.load(tmp_path / f'{rank}.npz') for rank in (0, 1)]
    # DDP averages over the ranks: the mean of the losses is that of the global batch, and so are
    # the gradients, each of which is the sum over both losses and would be halved
    assert np.mean([f['arr_0'] for f in found]) == pytest.approx(whole.item(), rel=1e-4)
    gradients = [f[f'arr_{k}'] / 2 for f in found for k in (1, 2)]
    for mine, theirs in zip(gradients, expected):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-3, atol=1e-5)

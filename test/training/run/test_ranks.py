# SPDX-License-Identifier: Apache-2.0
"""Two processes, each with half of the batch, do what one does with the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import os
from pathlib import Path
import socket
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from small_run import fit, make_config, make_street, prepare, ROOT, save_teacher, settings_on
from started_command import FORKING, run_command
import torch
from torch import distributed, nn, Tensor
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes
from torch.nn.parallel import DistributedDataParallel

from training.run.checkpoint import load_checkpoint
from training.run.config import Config
from training.run.folder import RunFolder
from training.run.ranks import join_ranks, Ranks
from training.run.synced_norm import synchronise_norms
from training.scores.metrics import Confusion

WORLD = 2
TOLERANCE = 1e-5  # of the largest gradient
ALL_POINTS = 10_000  # more than a scan has: the draw takes all of them, whatever the rank

pytestmark = [
    pytest.mark.skipif(
        not (distributed.is_available() and distributed.is_gloo_available()),
        reason='this torch has no gloo',
    ),
    pytest.mark.usefixtures('in_own_folder'),
]


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return int(free.getsockname()[1])


def _enter(rank: int, port: int, job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(WORLD)}
    torch.set_num_threads(1)
    with join_ranks() as ranks:
        job(ranks, *arguments)


def start_ranks(job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    own = (find_free_port(), job, arguments)
    start_processes(_enter, own, WORLD, start_method=FORKING.get_start_method())


def on_two_ranks(job: Callable[..., None], *arguments: Any) -> None:
    try:
        start_ranks(job, arguments)
    except ProcessRaisedException as error:
        if 'EADDRINUSE' not in str(error) and 'onnect' not in str(error):
            raise
        # somebody took the port between its finding and its use
        start_ranks(job, arguments)


@dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    settings: dict[str, Any]

    def result_of(self, world: int) -> Path:
        return self.folder / f'{self.name}{world}.pt'


def learn_once(ranks: Ranks, cases: list[Case]) -> None:
    """Gradients, terms and running statistics of the first batch; the first rank writes them."""
    for case in cases:
        torch.manual_seed(0)
        settings = case.settings | {
            'optim': case.settings['optim'] | {'batch_size': 2 // ranks.world}
        }
        config = Config(**settings)
        parts = prepare(config, case.folder / f'{case.name}-{ranks.world}', ranks)
        distillation = parts.distillation.train()
        teach: nn.Module = distillation
        if ranks.world > 1:
            teach = DistributedDataParallel(distillation, find_unused_parameters=True)
        terms = teach(next(iter(parts.loader)), np.random.default_rng(0))
        terms.loss.backward()
        values = {k: torch.stack(ranks.gather(v)).mean() for k, v in terms.weighted.items()}
        if ranks.is_first:
            gradients = {
                k: p.grad for k, p in distillation.named_parameters() if p.grad is not None
            }
            buffers = {k: b for k, b in distillation.student.named_buffers() if 'running' in k}
            result = {'gradients': gradients, 'terms': values, 'running': buffers}
            torch.save(result, case.result_of(ranks.world))


def talk(ranks: Ranks, folder: Path) -> None:
    """Each rank notes what it hears of the others."""
    norm = nn.Sequential(nn.BatchNorm1d(1, eps=0, momentum=0.5))
    synchronise_norms(norm)
    rows = torch.tensor([[0.0], [2]] if ranks.is_first else [[4.0], [10]])
    note: dict[str, Any] = {'train': norm(rows).detach()}
    state = norm.state_dict()
    note |= {'mean': state['0.running_mean'], 'variance': state['0.running_var']}
    note['eval'] = norm.eval()(rows).detach()
    note['gathered'] = [int(part.item()) for part in ranks.gather(torch.tensor([ranks.rank]))]
    note['anyone'] = [ranks.any(ranks.rank == 1), ranks.any(False)]
    with ranks.first_one_first():
        note['found'] = (folder / 'made').exists()
        (folder / 'made').touch()
    confusion = Confusion(2)
    confusion.add(np.array([ranks.rank], np.uint8), np.array([1], np.uint8), np.zeros(1))
    confusion.sum_over_ranks('cpu')
    note['iou'] = confusion.iou().tolist()
    torch.save(note, folder / f'note{ranks.rank}.pt')


def learn_and_talk(ranks: Ranks, cases: list[Case], folder: Path) -> None:
    learn_once(ranks, cases)
    talk(ranks, folder)


def notes_of(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f'note{rank}.pt', weights_only=True) for rank in range(WORLD)]


@pytest.fixture(scope='module')
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Both ways for all cases, for it is the start of a process that takes time."""
    folder = tmp_path_factory.mktemp('ranks')
    street = make_street(folder / 'street')
    points = {'point_ce': 1.0, 'point_lovasz': 1.0}
    srkd = {'output': 1.0, 'cross': 1.0, 'channel': 1.0, 'points': ALL_POINTS}
    srkd |= {'point_affinity': 0, 'voxel_affinity': 0}
    distilled = {
        'teacher': {'bundle': str(save_teacher(folder / 'teacher.safetensors'))},
        'method': ['srkd'],
        'methods': {'srkd': srkd},
    }
    found = [
        Case('supervised', folder, settings_on(street, loss=points)),
        Case('apart', folder, settings_on(street, optim__sync_norms=False)),
        Case('srkd', folder, settings_on(street, **distilled)),
    ]
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # for the caches
        learn_once(Ranks(), found)
        on_two_ranks(learn_and_talk, found, folder)
    torch.set_num_threads(before)
    return {case.name: case for case in found}


def compare(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one process says with two scans, and what two say with one each."""
    one, two = (torch.load(case.result_of(world), weights_only=True) for world in (1, WORLD))
    return one, two


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Over all tensors, as a share of the largest number."""
    assert list(one) == list(other)
    largest = max(float(tensor.abs().max()) for tensor in one.values())
    return max(float((one[k] - other[k]).abs().max()) for k in one) / largest


def test_two_ranks_have_the_supervised_gradients_of_one_process_with_both_scans(
    cases: dict[str, Case],
) -> None:
    whole, shared = compare(cases['supervised'])
    for kind in ('gradients', 'terms', 'running'):
        assert largest_difference(whole[kind], shared[kind]) < TOLERANCE


def test_without_synchronised_norms_the_gradients_differ(cases: dict[str, Case]) -> None:
    whole, shared = compare(cases['apart'])
    assert largest_difference(whole['gradients'], shared['gradients']) > 10 * TOLERANCE


def test_two_ranks_have_the_gradients_of_srkds_relations_across_all_scans(
    cases: dict[str, Case],
) -> None:
    whole, shared = compare(cases['srkd'])
    assert set(whole['terms']) >= {'srkd.output', 'srkd.cross', 'srkd.channel'}
    for kind in ('gradients', 'terms', 'running'):
        assert largest_difference(whole[kind], shared[kind]) < TOLERANCE


def test_norms_see_the_rows_of_both_ranks(cases: dict[str, Case]) -> None:
    """Rows 0 2 | 4 10: mean 4, variance (16 + 4 + 0 + 36) / 4 = 14, unbiased 56 / 3."""
    first, second = notes_of(cases['supervised'].folder)
    rows = torch.tensor([[0.0], [2], [4], [10]])
    assert torch.allclose(torch.cat([first['train'], second['train']]), (rows - 4) / 14**0.5)
    for note in (first, second):
        assert note['mean'].item() == 2  # half of the way from 0 to 4
        assert note['variance'].item() == pytest.approx((1 + 56 / 3) / 2)
    evaluated = torch.cat([first['eval'], second['eval']])
    assert torch.allclose(evaluated, (rows - 2) / ((1 + 56 / 3) / 2) ** 0.5)


def test_ranks_share_orders_wishes_and_scores(cases: dict[str, Case]) -> None:
    first, second = notes_of(cases['supervised'].folder)
    for note in (first, second):
        assert note['gathered'] == [0, 1]
        assert note['anyone'] == [True, False]
        # class 0: one point, missed; class 1: one hit, one false alarm
        assert note['iou'] == [0, 0.5]
    assert (first['found'], second['found']) == (False, True)  # the second comes after the first


def torchrun(folder: Path, out: str) -> CompletedProcess[str]:
    command = ['-m', 'torch.distributed.run', f'--nproc_per_node={WORLD}']
    command += [f'--master_port={find_free_port()}', str(ROOT / 'training' / 'train.py')]
    command += ['--cfg', 'small.yaml', '--out', out]
    return run_command(command, cwd=folder, timeout=120)


def test_a_run_under_torchrun_scores_saves_and_ends_like_one_of_a_single_process(
    tmp_path: Path,
) -> None:
    """SGD, for Adam blows up the rounding of gradients that are nearly 0."""
    street = make_street(tmp_path / 'street')
    common: dict[str, Any] = {'optim__name': 'sgd', 'save_every_s': 0.0}
    alone = make_config(tmp_path, settings_on(street, optim__batch_size=2, **common))
    fit(alone, tmp_path / 'alone')
    make_config(tmp_path, settings_on(street, optim__batch_size=1, **common))
    done = torchrun(tmp_path, 'shared')
    assert done.returncode == 0, done.stderr
    one, two = RunFolder(tmp_path / 'alone'), RunFolder(tmp_path / 'shared')
    assert [row['step'] for row in one.history()] == [row['step'] for row in two.history()]
    assert two.is_finished
    state = load_checkpoint(two.last)
    assert len(state['rng']) == WORLD
    model = load_checkpoint(one.last)['model']
    weights = {k: v for k, v in model.items() if v.is_floating_point()}
    assert largest_difference(weights, {k: state['model'][k] for k in weights}) < 1e-3

# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of whatever training run are read, and nothing in them is run."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
import os
from pathlib import Path
import pickle
import resource
import tarfile
from typing import Any
import zipfile

import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torch.optim.lr_scheduler import OneCycleLR

from lidar_kd.errors import BundleError
from training.importing.reading import read_checkpoint

WEIGHTS = {'conv.weight': torch.arange(6.0).view(2, 3), 'norm.bias': torch.tensor([1, 2]).half()}
zip_or_older = pytest.mark.parametrize('is_zip', [True, False], ids=['zip', 'older than 1.6'])


def save(path: Path, stored: object, *, is_zip: bool = True, protocol: int = 2) -> Path:
    """is_zip False: as torch wrote files before 1.6."""
    torch.save(stored, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    return path


def assert_are_weights(found: dict[str, Tensor]) -> None:
    assert found.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


# --- what stands beside the weights ---


@zip_or_older
def test_functions_numpy_numbers_and_namespaces_beside_the_weights_do_no_harm(
    tmp_path: Path, is_zip: bool
) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    beside = {
        'anneal_func': OneCycleLR._annealing_cos,  # of Pointcept's schedule, under torch < 2.4
        'total_steps': np.int64(3),
        'scores': np.ones(3),
        'options': argparse.Namespace(lr=0.1),
        'optimizer': optimizer,
    }
    stored = {'epoch': 3, 'state_dict': OrderedDict(WEIGHTS), 'scheduler': beside}
    assert_are_weights(read_checkpoint(save(tmp_path / 'a.pth', stored, is_zip=is_zip)))


@zip_or_older
def test_tensors_that_share_memory_and_parameters_are_read(tmp_path: Path, is_zip: bool) -> None:
    whole = torch.arange(10.0)
    stored = {'a': whole[2:8].view(2, 3).T, 'b': nn.Parameter(whole)}
    found = read_checkpoint(save(tmp_path / 'a.pth', stored, is_zip=is_zip))
    assert torch.equal(found['a'], torch.tensor([[2.0, 5.0], [3.0, 6.0], [4.0, 7.0]]))
    assert torch.equal(found['b'], whole)


# --- nothing is run ---


class Deed:
    """Makes a folder when somebody unpickles it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize('protocol', [2, 4])
@zip_or_older
def test_code_beside_the_weights_is_never_run(tmp_path: Path, is_zip: bool, protocol: int) -> None:
    stored = {'model': WEIGHTS, 'more': Deed(tmp_path / 'done')}
    path = save(tmp_path / 'a.pth', stored, is_zip=is_zip, protocol=protocol)
    assert_are_weights(read_checkpoint(path))
    assert not (tmp_path / 'done').exists()
    pickle.loads(pickle.dumps(stored['more']))
    assert (tmp_path / 'done').exists()  # it is a deed elsewhere


def zipped(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a/data.pkl', pickled)
        archive.writestr('a/version', '3\n')


def plain(path: Path, pickled: bytes) -> None:
    """Where torch expects its magic number."""
    path.write_bytes(pickled)


def older(path: Path, pickled: bytes) -> None:
    magic, version, system = 0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}
    head = b''.join(pickle.dumps(value, 2) for value in (magic, version, system))
    path.write_bytes(head + pickled + pickle.dumps([], 2))


def tarred(path: Path, pickled: bytes) -> None:
    """As torch wrote files before 0.1.10."""
    (path.parent / 'storages').write_bytes(pickled)
    with tarfile.open(path, 'w:') as archive:
        archive.add(path.parent / 'storages', 'storages')


def text(word: str) -> bytes:
    return b'\x8c' + bytes([len(word)]) + word.encode()


def dotted(module: str, name: str, folder: Path) -> bytes:
    """Protocol 4 finds a name with dots attribute by attribute."""
    return b'\x80\x04' + text(module) + text(name) + b'\x93' + text(str(folder)) + b'\x85R.'


@pytest.mark.parametrize('write', [zipped, plain, older, tarred])
@pytest.mark.parametrize(
    'name', [None, ('torch', 'os.mkdir'), ('collections', '_sys.modules'), ('os', 'mkdir')]
)
def test_a_file_of_code_alone_is_refused_unrun(
    tmp_path: Path, write: Callable[[Path, bytes], None], name: tuple[str, str] | None
) -> None:
    path, folder = tmp_path / 'a.pth', tmp_path / 'done'
    write(path, dotted(*name, folder) if name else pickle.dumps(Deed(folder)))
    with pytest.raises(BundleError, match=r'a\.pth: (holds an object|not a readable checkpoint)'):
        read_checkpoint(path)
    assert not folder.exists()


@pytest.mark.parametrize('write', [zipped, older])
def test_a_file_changes_no_function_of_torch(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    # BUILD, b, gives what is before it the attributes of the dictionary {'evil': 1}
    write(tmp_path / 'a.pth', b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}\x8c\x04evilK\x01sb.')
    with pytest.raises(BundleError, match='not a readable checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')
    assert not hasattr(torch._utils._rebuild_tensor_v2, 'evil')


@pytest.mark.filterwarnings('ignore')
def test_a_torchscript_program_is_refused_unrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / 'a.pt')
    monkeypatch.setattr(torch.jit, 'load', lambda *_, **__: pytest.fail('it was loaded'))
    with pytest.raises(BundleError, match='a TorchScript program, which loading would run'):
        read_checkpoint(tmp_path / 'a.pt')


@pytest.mark.parametrize(
    'announced', [b'}r\xff\xff\xff\x1f', b'\x96' + (1 << 40).to_bytes(8, 'little')]
)
@pytest.mark.parametrize('write', [zipped, plain, older, tarred])
def test_room_that_a_file_announces_is_not_made(
    tmp_path: Path, write: Callable[[Path, bytes], None], announced: bytes
) -> None:
    """A number for the memo for which C makes 8 GB of room, and a terabyte of bytes."""
    write(tmp_path / 'a.pth', b'\x80\x05' + announced + b'.')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match=r'a\.pth: '):
        read_checkpoint(tmp_path / 'a.pth')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


# --- one sentence ---


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
@pytest.mark.parametrize(
    'content', [None, b'', b'not a checkpoint', b'PK\x03\x04 no zip', b'\x80\x02(\x1b[1m.']
)
def test_a_file_that_is_no_checkpoint_gets_one_sentence(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match='not a readable checkpoint') as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()
    assert 'weights_only' not in str(caught.value)


@pytest.mark.parametrize(
    ('stored', 'sentence'),
    [
        ({'epoch': 3, 'weights': WEIGHTS}, 'has no tensor by name, its keys are epoch, weights: '),
        ({'state_dict': Path('x')}, 'has no tensor by name, its keys are state_dict: '),
        ({}, 'has no tensor by name, its keys are none: '),
        ([1, 2], 'holds a list, no weights by name: pass a file of what'),
        (Path('x'), 'holds an object, no weights by name: '),
    ],
)
def test_a_file_without_weights_says_what_it_holds(
    tmp_path: Path, stored: object, sentence: str
) -> None:
    with pytest.raises(BundleError, match=sentence):
        read_checkpoint(save(tmp_path / 'a.pth', stored))


# --- what stands around the weights ---


@pytest.mark.parametrize(
    'keys',
    [
        ['model_state_dict'],
        ['model_state'],
        ['net'],
        ['state_dict', 'model'],
        ['model', 'state_dict'],
    ],
)
def test_weights_are_found_where_training_runs_keep_them(tmp_path: Path, keys: list[str]) -> None:
    stored: dict[str, Any] = WEIGHTS
    for key in reversed(keys):
        stored = {'epoch': 3, key: stored}
    assert_are_weights(read_checkpoint(save(tmp_path / 'a.pth', stored)))


@pytest.mark.parametrize(
    'prefix', ['_orig_mod.', 'module._orig_mod.', 'model.', 'model.module.backbone._orig_mod.']
)
def test_names_lose_what_torch_and_lightning_put_before_them(tmp_path: Path, prefix: str) -> None:
    stored = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    assert_are_weights(read_checkpoint(save(tmp_path / 'a.pth', stored)))


def test_each_name_loses_its_own_prefixes(tmp_path: Path) -> None:
    # a compiled backbone, its head, and the loss that Lightning keeps beside the model
    names = ['model.backbone._orig_mod.enc.weight', 'model.seg_head.weight', 'loss.weight']
    found = read_checkpoint(save(tmp_path / 'a.pth', {name: torch.ones(1) for name in names}))
    assert [*found] == ['enc.weight', 'seg_head.weight', 'loss.weight']


def test_two_networks_in_one_file_are_refused(tmp_path: Path) -> None:
    stored = {'model.conv.weight': torch.zeros(1), 'conv.weight': torch.ones(1)}
    with pytest.raises(BundleError, match=r'model\.conv\.weight and conv\.weight may both be'):
        read_checkpoint(save(tmp_path / 'a.pth', stored))

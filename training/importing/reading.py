# SPDX-License-Identifier: Apache-2.0
"""Files of weights: the tensors by the names that the network itself gave them."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import pickle
import re
import struct
from typing import Any
import zipfile

from safetensors import safe_open, SafetensorError
from torch import Tensor

from lidar_kd.errors import BundleError
from training.importing.renaming import Checkpoint, listed
from training.importing.unpickling import Inert, load_tensors

NOT_STORED = 'num_batches_tracked'  # counts training steps
WRAPPERS = ('state_dict', 'model_state_dict', 'model_state', 'model', 'net')  # keys of the weights
# What data-parallel training, torch.compile, Lightning and a head put before names. The head
# itself stands beside the backbone, a loss beside the model, so each name loses its own.
PREFIXES = re.compile(r'^((module|_orig_mod|model|backbone)\.)+')
KEYS_SHOWN = 12
UNREADABLE = (
    OSError,
    SafetensorError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    # what a pickle that was not written by torch.save, or was spoilt, makes Python raise
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a .safetensors or torch file, without prefixes and step counters."""
    try:
        read = _read_safetensors if path.suffix == '.safetensors' else _read_torch
        stored, config = read(path)
    except UNREADABLE as error:
        raise BundleError(
            f'{path}: not a readable checkpoint ({_reason(error)}): '
            'pass a torch or safetensors file'
        ) from None
    state = _by_own_name(_tensors(stored, path), path)
    state.config = config
    return state


def _reason(error: Exception) -> str:
    """Its first line without control codes; an error may quote the file."""
    line = (str(error) or type(error).__name__).split('\n')[0]
    return ' '.join(''.join(filter(str.isprintable, line)).split())


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework='pt') as file:
        config = (file.metadata() or {}).get('config', '{}')
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    prefix = 'state_dict.'
    if any(name.startswith(prefix) for name in state):  # other tensors beside it: not weights
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state, json.loads(config)


def _read_torch(path: Path) -> tuple[Any, dict[str, Any]]:
    return load_tensors(path), {}


def _tensors(stored: Any, path: Path) -> dict[str, Tensor]:
    """Those inside the keys that training runs store their weights by, one in another at most."""
    for key in WRAPPERS * 2:
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    remedy = "pass a file of what the network's state_dict() gives"
    if not isinstance(stored, dict):
        kind = 'an object' if isinstance(stored, Inert) else f'a {type(stored).__name__}'
        raise BundleError(f'{path}: holds {kind}, no weights by name: {remedy}')
    tensors = {k: v for k, v in stored.items() if isinstance(k, str) and isinstance(v, Tensor)}
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise BundleError(f'{path}: {name} is larger than what is stored of it: {remedy}')
    if not tensors:
        keys = listed([str(key) for key in stored], KEYS_SHOWN) or 'none'
        raise BundleError(f'{path}: has no tensor by name, its keys are {keys}: {remedy}')
    return tensors


def _by_own_name(state: Mapping[str, Tensor], path: Path) -> Checkpoint:
    found: dict[str, str] = {}
    for name in state:
        own = PREFIXES.sub('', name)
        if own in found:
            raise BundleError(
                f'{path}: {found[own]} and {name} may both be {own}: pass a file of one network'
            )
        found[own] = name
    return Checkpoint(
        (own, state[name]) for own, name in found.items() if not own.endswith(NOT_STORED)
    )

# SPDX-License-Identifier: Apache-2.0
"""Reads what torch.save wrote and makes tensors and plain containers of it, whatever it names.

torch.load(weights_only=True) refuses a file for a function, a number of numpy or a Namespace that
stands beside the weights. Here all such become Inert, and nothing that a file names is imported,
called or changed, so that weights_only=False below is as strict.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
import io
from pathlib import Path
import pickle
from types import SimpleNamespace
from typing import Any, BinaryIO, ClassVar
import zipfile

import torch

SCRIPT = 'constants.pkl'  # what torch.load takes for the sign of a TorchScript program
ZIP = b'PK\x03\x04'


class Inert:
    """Stands for what is no tensor; whatever a file wants done with it does nothing."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> Inert:
        return self

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, *_: object) -> None:
        pass

    def append(self, _: object) -> None:
        pass

    extend = append


def _sealed(function: Callable[..., object]) -> type[Inert]:
    """A class whose call is the function's: a pickle may set attributes of a function, and torch
    writes a patch beside a model whose class says so."""
    return type(function.__name__, (Inert,), {'__new__': lambda _, *args: function(*args)})


# The storages are torch.load's own affair: it never asks for a class whose name it knows.
KNOWN: dict[tuple[str, str], type] = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('collections', 'defaultdict'): collections.defaultdict,
    ('torch', 'Size'): torch.Size,
    ('torch._utils', '_rebuild_tensor'): _sealed(torch._utils._rebuild_tensor),
    ('torch._utils', '_rebuild_tensor_v2'): _sealed(torch._utils._rebuild_tensor_v2),
    ('torch._utils', '_rebuild_parameter'): _sealed(torch._utils._rebuild_parameter),
}


class TensorUnpickler(pickle._Unpickler):
    """Python's own: the one in C makes room for every number up to one that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        return KNOWN.get((module, name), Inert)

    def _refuse_buffer(self) -> None:
        raise pickle.UnpicklingError('a buffer of bytes, made before it is known to be there')

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _refuse_buffer,
    }


def load_tensors(path: Path) -> Any:
    """From memory: torch unpacks an old tar archive only where it reads a file itself."""
    file = io.BytesIO(path.read_bytes())
    if _is_program(file):
        raise pickle.UnpicklingError('a TorchScript program, which loading would run')
    _check_packing(file)
    reader = SimpleNamespace(Unpickler=TensorUnpickler, load=_load, __name__='tensors')
    return torch.load(file, map_location='cpu', weights_only=False, pickle_module=reader)


def _is_program(file: BinaryIO) -> bool:
    """Asked of the reader that torch.load asks, as another might find other records."""
    is_zip = file.read(len(ZIP)) == ZIP
    file.seek(0)
    records = torch._C.PyTorchFileReader(file).get_all_records() if is_zip else []
    file.seek(0)
    return SCRIPT in records


def _check_packing(file: BinaryIO) -> None:
    is_zip = file.read(len(ZIP)) == ZIP
    file.seek(0)
    if not is_zip:
        return
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type for member in archive.infolist()):
            raise pickle.UnpicklingError('it is packed, as torch.save never does')
    file.seek(0)


def _load(file: BinaryIO, **options: Any) -> Any:
    """For the pickles around the weights in files that are no zip."""
    return TensorUnpickler(file, **options).load()

# SPDX-License-Identifier: Apache-2.0
"""A device that is none: its tensors lie in host memory, but torch takes them for another's.

What a GPU would refuse is refused (a tensor of the host among the device's), and what a GPU would
make the host wait for is counted, with the place in our code that asked. It calls itself `meta`,
for torch knows no other device that needs no driver and runs its backward pass in this thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE = torch.device('meta')
# calls after which the host waits for the device; of `index` and the like those by a mask
WAITS = {
    *('_local_scalar_dense', 'nonzero', '_unique2', 'unique_consecutive', 'unique_dim'),
    *('masked_select', 'bincount', 'equal', 'repeat_interleave'),
}
BY_MASK = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index'}
ROOT = Path(__file__).resolve().parents[1]


AnyTensor: Any = Tensor  # it is overridden otherwise than its stubs allow


class Pretended(AnyTensor):
    """A tensor of the device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        made: Any = AnyTensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE,
        )  # fmt: skip
        made.held = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def is_cuda(self) -> bool:
        return True  # what our code does on a GPU is to be seen

    def tolist(self) -> Any:
        """Torch's own refuses subclasses."""
        return self.cpu().tolist()

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        """Torch's own would bring it to a device without values."""
        return torch.tensor(data, **{'dtype': self.dtype, **kwargs}).to(DEVICE)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, Counter())


class PretendDevice(TorchDispatchMode):
    """waits: (what, where in our code) -> how often; calls: what -> how often, on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked: Counter[str] = Counter()
        result = _run(func, args, kwargs or {}, asked, self.calls)
        for what, times in asked.items():
            self.waits[what, _place()] += times
        return result


def _place() -> str:
    """The innermost line of ours, as folder/file.py:function."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and '.venv' not in path.parts and 'test' not in path.parts:
            return f'{path.relative_to(ROOT)}:{frame.f_code.co_name}'
        frame = frame.f_back
    return 'torch'


def _run(
    func: Any, args: Any, kwargs: dict[str, Any], asked: Counter[str], calls: Any = None
) -> Any:
    name = func.__name__.split('.')[0]
    flat, form = tree_flatten((args, kwargs))
    ours = {id(each.held): each for each in flat if isinstance(each, Pretended)}
    wanted = kwargs.get('device')
    goes = ours and wanted is None or wanted is not None and torch.device(wanted) == DEVICE
    _look(name, func, flat, kwargs, asked)
    if not ours and not goes:
        return func(*args, **kwargs)
    if calls is not None:
        calls[name] += 1
    bare = [each.held if isinstance(each, Pretended) else each for each in flat]
    bare = [torch.device('cpu') if each == DEVICE and type(each) is torch.device else each
            for each in bare]  # fmt: skip
    inner_args, inner_kwargs = tree_unflatten(bare, form)
    result = func(*inner_args, **inner_kwargs)
    if name == 'copy_':
        return args[0]
    if not goes:
        return result
    return tree_map_only(
        Tensor, lambda each: ours[id(each)] if id(each) in ours else Pretended(each), result
    )


def _look(name: str, func: Any, flat: list[Any], kwargs: Any, asked: Counter[str]) -> None:
    """Counts what waits; refuses what a GPU would."""
    tensors = [each for each in flat if isinstance(each, Tensor)]
    theirs = [each for each in tensors if isinstance(each, Pretended)]
    host = [each for each in tensors if not isinstance(each, Pretended)]
    wanted = kwargs.get('device')
    there = wanted is not None and torch.device(wanted) == DEVICE
    if name in ('_to_copy', 'copy_', 'lift_fresh'):
        if name == '_to_copy' and theirs and wanted is not None and not there:
            asked['download'] += 1
        if name == '_to_copy' and host and there and not kwargs.get('non_blocking'):
            asked['upload'] += 1
        if name == 'copy_' and theirs and host and not (flat[2:] and flat[2] is True):
            asked['upload' if isinstance(flat[0], Pretended) else 'download'] += 1
        return
    if not theirs:
        return
    strangers = [each for each in host if each.ndim]
    if strangers and 'embedding_bag' not in name:
        raise RuntimeError(f'{func}: a tensor of the host among those of the device')
    masks = any(each.dtype == torch.bool for each in theirs[1:])
    if name in WAITS or (name in BY_MASK and masks):
        asked[name] += 1


@contextmanager
def pretend_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendDevice]:
    """While it lasts, device `meta` computes."""
    plain, make = torch.autocast, torch.tensor

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == 'meta' else plain(device_type, *args, **kwargs)

    def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        made = make(data, **kwargs)
        return made if device is None else made.to(device)

    monkeypatch.setattr(torch, 'autocast', autocast)
    monkeypatch.setattr(torch, 'tensor', tensor)
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda *_: False)
    with PretendDevice() as device:
        yield device

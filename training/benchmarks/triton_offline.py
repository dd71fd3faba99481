# SPDX-License-Identifier: Apache-2.0
"""`bench.py triton-offline`: the Triton kernels compiled for GPUs that are not here.

What the engine would start for every layer of our presets is noted on tensors without values, and
compiled; registers, spills and instructions are read from the machine code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
import math
from pathlib import Path
import re
import subprocess
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from lidar_kd.models import build_model, PRESETS
from lidar_kd.models.fixed_scan import FixedNetwork, FixedScan
from lidar_kd.sparse import Conv, fold_norms, KernelMap, PointwiseConv
from lidar_kd.sparse.engines.triton.launch import KernelLaunch, recorded
from lidar_kd.sparse.fixed.level import rooms_for
from lidar_kd.voxels import CartesianGrid

SHIPPED = 'minkunet_quarter'  # in every number type, and with its gradients
TYPES = {
    'float16': (torch.float16, 'highest'),
    'bfloat16': (torch.bfloat16, 'highest'),
    'float32': (torch.float32, 'highest'),
    'float32 tf32x3': (torch.float32, 'high'),
}
LEVELS = 5  # of the student that ships
ROWS = 1000  # of a made-up map; of no divisor that a kernel could be specialised for
TENSOR_CORES = r'\b(HMMA|HGMMA|QGMMA|UTCHMMA|UTCQMMA|UTCMMA)\b'
COPIES = r'\b(LDGSTS|UTMALDG)\b'  # from memory to shared memory without waiting
POINTERS = {
    torch.float16: '*fp16', torch.bfloat16: '*bf16', torch.float32: '*fp32',
    torch.int32: '*i32', torch.int64: '*i64', torch.uint8: '*u8',
}  # fmt: skip
HEAD = [
    *('GPU', 'kernel', 'type', 'compiled', 'registers', 'shared KiB', 'spills'),
    *('MMA', 'async copies'),
]
TOLD = ('C_IN', 'C_OUT', 'GATHERS', 'ROWS', 'COLUMNS', 'DEPTH', 'STAGES')  # of what is refused
MULTIPLIES = ('convolve_tiles', 'correlate_pairs')


@dataclass(frozen=True)
class LayerShape:
    c_in: int
    c_out: int
    slots: int  # 1: no map


@dataclass(frozen=True)
class Wanted:
    """One kernel as the engine starts it."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]  # arguments that are multiples of 16
    warps: int
    type_name: str

    @property
    def name(self) -> str:
        name: str = self.kernel.__name__
        return name

    @property
    def multiplies(self) -> bool:
        """Whether it must use tensor cores: exact float32 has none."""
        return self.name in MULTIPLIES and self.type_name != 'float32'


@dataclass(frozen=True)
class Machine:
    """What the machine code says."""

    registers: int
    shared: int  # bytes
    spills: int  # bytes, and instructions that move them
    products: int  # of tensor cores
    copies: int

    def fails(self, wanted: Wanted) -> str:
        if self.spills:
            return f'{self.spills} spills'
        return 'no tensor cores' if wanted.multiplies and not self.products else ''


def run_triton_offline(
    console: Console,
    *,
    arch: Sequence[int],
    presets: Sequence[str] = tuple(PRESETS),
    types: Sequence[str] = tuple(TYPES),
) -> dict[str, float]:
    if find_spec('triton') is None:
        raise ConfigError('triton-offline: Triton is not installed here: pip install triton.')
    console.banner('triton-offline', {'networks': ', '.join(presets), 'triton': _version()})
    found: dict[tuple[int, str, str], list[Machine]] = defaultdict(list)
    failed: list[list[str]] = []
    work = [(kind, each) for kind in arch for each in kernels_of(kind, presets, types)]
    with TemporaryDirectory() as folder, console.progress(len(work), 'compiling') as advance:
        for kind, wanted in work:
            machine = compile_for(kind, wanted, Path(folder))
            found[kind, wanted.name, wanted.type_name].append(machine)
            if machine.fails(wanted):
                text = ', '.join(
                    f'{key} {value}' for key, value in wanted.constants if key in TOLD
                )
                failed.append([f'sm_{kind}', wanted.name, machine.fails(wanted), text])
            advance()
    return _tell(console, found, failed)


def _version() -> str:
    import triton

    return str(triton.__version__)


def layer_shapes(presets: Sequence[str]) -> set[LayerShape]:
    """Of every convolution; a shape once, whatever the kernel it is asked for with."""
    slots: dict[tuple[int, int, bool], int] = {}
    for name in presets:
        with torch.device('meta'):
            model = build_model(name, classes=19)
        for layer in model.modules():
            if isinstance(layer, Conv):
                key = layer.in_channels, layer.out_channels, isinstance(layer, PointwiseConv)
                count = layer.weight.shape[1:4].numel()
                slots[key] = max(count, slots.get(key, 0))
    return {LayerShape(c_in, c_out, count) for (c_in, c_out, _), count in slots.items()}


def kernels_of(
    kind: int, presets: Sequence[str], types: Sequence[str] = tuple(TYPES)
) -> list[Wanted]:
    """Different ones: of inference in float16, and all that the shipped student can ask for, a
    scan at fixed shapes among it.
    """
    found: dict[Wanted, None] = {}
    before = torch.get_float32_matmul_precision()
    student, others = layer_shapes([SHIPPED]), layer_shapes(presets)
    try:
        for name in types:
            dtype, precision = TYPES[name]
            torch.set_float32_matmul_precision(precision)
            launches = [*_of_a_scan(kind, dtype), *_of_layers(kind, student, dtype, trains=True)]
            if dtype == torch.float16:
                launches += _of_layers(kind, others, dtype, trains=False)
            found |= dict.fromkeys(_wanted(each, name) for each in launches)
    finally:
        torch.set_float32_matmul_precision(before)
    return list(found)


def _of_a_scan(kind: int, dtype: torch.dtype) -> list[KernelLaunch]:
    """What a GPU does for the student that ships, from points to labels."""
    from lidar_kd.sparse.engines.triton.engine import TritonEngine

    model = fold_norms(build_model(SHIPPED, classes=19)).eval()
    rooms, grid = rooms_for(ROWS, LEVELS), CartesianGrid(voxel_m=0.1)
    engine, wants = TritonEngine('cpu', kind), FixedNetwork(LEVELS)
    with recorded() as launches:
        scan = FixedScan(rooms, grid, model, dtype, wants, engine=engine)
        scan.run(torch.full((ROWS, 4), math.nan))
    return launches


def _of_layers(
    kind: int, shapes: set[LayerShape], dtype: torch.dtype, *, trains: bool
) -> list[KernelLaunch]:
    from lidar_kd.sparse.engines.triton.engine import TritonEngine

    engine = TritonEngine('cuda', kind)
    with recorded() as launches:
        for shape in sorted(shapes, key=lambda shape: (shape.c_in, shape.c_out, shape.slots)):
            _ask(engine, shape, dtype, trains=trains)
        engine.answers(torch.empty(ROWS, 19, dtype=dtype, device='meta'))
    return launches


def _wanted(each: KernelLaunch, type_name: str) -> Wanted:
    names = each.kernel.arg_names[: len(each.arguments)]
    kinds = [_type_of(value) for value in each.arguments]
    aligned = [
        at
        for at, value in enumerate(each.arguments)
        if _is_aligned(value) and not each.kernel.params[at].do_not_specialize
    ]
    return Wanted(
        each.kernel, tuple(zip(names, kinds)), tuple(each.fixed.items()), tuple(aligned),
        each.warps, type_name if each.kernel.__name__ in MULTIPLIES else 'any',
    )  # fmt: skip


def _ask(engine: Any, shape: LayerShape, dtype: torch.dtype, *, trains: bool) -> None:
    """A layer with everything that can be fused, perhaps with its gradients."""
    c_in, c_out, slots = shape.c_in, shape.c_out, shape.slots
    x, dy = (torch.empty(ROWS, width, dtype=dtype, device='meta') for width in (c_in, c_out))
    weight = torch.empty(c_out, slots, c_in, dtype=dtype, device='meta')
    pairs = made_up_map(slots) if slots > 1 else None
    packed, bias = engine.pack(weight, dtype), torch.empty(c_out, device='meta')
    engine.infer(x, packed, pairs, c_out, bias=bias, residual=dy, relu=True)
    if trains and pairs is not None:
        engine.forward(x, weight, pairs)
        engine.backward(x, weight, dy, pairs, need_x=True)


def made_up_map(slots: int) -> KernelMap:
    """Of as many rows on both sides; nothing has a value."""
    rows = torch.empty(ROWS * slots, dtype=torch.int32, device='meta')
    starts = tuple(range(0, ROWS * slots + 1, ROWS))
    return KernelMap(rows, rows, starts, ROWS, ROWS, mirrored=slots % 2 == 1)


def _type_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return POINTERS[value.dtype]
    return 'fp32' if isinstance(value, float) else 'i32'


def _is_aligned(value: Any) -> bool:
    if isinstance(value, Tensor):  # a storage begins at a multiple of 16
        return value.storage_offset() * value.element_size() % 16 == 0
    return isinstance(value, int) and value % 16 == 0


def compile_for(kind: int, wanted: Wanted, folder: Path) -> Machine:
    """kind: the compute capability, times ten."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = dict(wanted.constants)
    signature = {**dict(wanted.signature), **dict.fromkeys(constants, 'constexpr')}
    aligned: dict[tuple[int, ...], Any] = {
        (at,): [['tt.divisibility', 16]] for at in wanted.aligned
    }
    source = ASTSource(wanted.kernel, signature, constexprs=constants, attrs=aligned)
    options = {'num_warps': wanted.warps}
    made = triton.compile(source, target=GPUTarget('cuda', kind, 32), options=options)
    file = folder / 'kernel.cubin'
    file.write_bytes(made.asm['cubin'])
    return _read_machine_code(file, made.metadata.shared)


def _read_machine_code(file: Path, shared: int) -> Machine:
    usage = _tool('cuobjdump', '-res-usage', file)
    numbers = {key: int(value) for key, value in re.findall(r'(REG|STACK|LOCAL):(\d+)', usage)}
    code = _tool('nvdisasm', '-c', file)
    moves = len(re.findall(r'\b(STL|LDL)\b', code))
    return Machine(
        numbers['REG'], shared, numbers['STACK'] + numbers['LOCAL'] + moves,
        len(re.findall(TENSOR_CORES, code)), len(re.findall(COPIES, code)),
    )  # fmt: skip


def _tool(name: str, option: str, file: Path) -> str:
    """What one of the programs that Triton's wheel brings says of a file."""
    import triton

    program = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / name
    done = subprocess.run([program, option, file], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _tell(
    console: Console,
    found: dict[tuple[int, str, str], list[Machine]],
    failed: list[list[str]],
) -> dict[str, float]:
    table = []
    for (kind, name, type_name), machines in found.items():
        columns = [[getattr(each, part) for each in machines] for part in Machine.__annotations__]
        registers, shared, spills, products, copies = columns
        table.append([
            f'sm_{kind}', name, type_name, f'{len(machines)}', f'{max(registers)}',
            f'{max(shared) / 1024:.1f}', f'{sum(spills)}', _span(products), _span(copies),
        ])  # fmt: skip
    console.table('kernels: the most of any, or from - to', HEAD, table)
    if failed:
        console.table('refused', ['GPU', 'kernel', 'why', 'compiled for'], failed)
    compiled = sum(map(len, found.values()))
    return {'compiled': float(compiled), 'failures': float(len(failed))}


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f'{low}' if low == high else f'{low} - {high}'

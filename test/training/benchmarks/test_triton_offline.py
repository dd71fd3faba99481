# SPDX-License-Identifier: Apache-2.0
"""What is read from the machine code of a Triton kernel, and what of it is refused."""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
import subprocess
import sys

import pytest

from training.benchmarks.triton_offline import layer_shapes, Machine, Wanted

ROOT = Path(__file__).resolve().parents[3]
GOOD = Machine(registers=64, shared=4096, spills=0, products=8, copies=9)
# compiles the first kernel of each kind that a GPU would start for the shipped student
COMPILE = """
import sys
from pathlib import Path
from training.benchmarks.triton_offline import compile_for, kernels_of, SHIPPED
kernels = {(each.name, each.type_name): each for each in kernels_of(87, [SHIPPED])}
for name in ('convolve_tiles', 'correlate_pairs'):
    machine = compile_for(87, kernels[name, 'float16'], Path(sys.argv[1]))
    print(name, machine.spills, machine.products > 0, machine.copies > 0)
machine = compile_for(87, kernels['convolve_tiles', 'float32'], Path(sys.argv[1]))
print('float32', machine.spills, machine.products)
"""


def wanted(name: str, type_name: str) -> Wanted:
    def kernel() -> None: ...

    kernel.__name__ = name
    return Wanted(kernel, (), (), (), 4, type_name)


def test_a_spill_is_refused_and_so_is_a_product_without_tensor_cores() -> None:
    half = wanted('convolve_tiles', 'float16')
    assert GOOD.fails(half) == ''
    assert replace(GOOD, spills=12).fails(half) == '12 spills'
    assert replace(GOOD, products=0).fails(half) == 'no tensor cores'
    assert replace(GOOD, products=0).fails(wanted('correlate_pairs', 'float32 tf32x3'))


def test_exact_float32_and_what_multiplies_nothing_need_no_tensor_cores() -> None:
    plain = replace(GOOD, products=0)
    assert plain.fails(wanted('convolve_tiles', 'float32')) == ''
    assert plain.fails(wanted('read_masks', 'any')) == ''
    assert replace(plain, spills=1).fails(wanted('read_masks', 'any')) == '1 spills'


def test_every_layer_of_a_network_is_asked_for_with_its_largest_kernel() -> None:
    shapes = {(each.c_in, each.c_out): each.slots for each in layer_shapes(['spunet'])}
    assert shapes[4, 32] == 125  # the stem's 5^3
    assert shapes[32, 32] == 27  # beside the 2^3 of the first stage down
    assert shapes[96, 19] == 1  # the head


def test_kernels_for_another_gpu_are_compiled_here(tmp_path: Path) -> None:
    pytest.importorskip('triton', reason='Triton is not installed (torch for CUDA brings it)')
    inherited = {key: value for key, value in os.environ.items() if key != 'TRITON_INTERPRET'}
    command = [sys.executable, '-c', COMPILE, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**inherited, 'TRITON_CACHE_DIR': str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        'convolve_tiles 0 True True',
        'correlate_pairs 0 True True',
        'float32 0 0',
    ], done.stderr


def test_without_triton_the_benchmark_says_how_to_get_it() -> None:
    code = (
        'import sys, runpy; sys.modules["triton"] = None; sys.argv = ["bench", "triton-offline"]; '
        'sys.path[0] = "training"; runpy.run_path("training/bench.py", run_name="__main__")'
    )
    command = [sys.executable, '-c', code]  # a new one: what torch has of Triton is not forgotten
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install triton' in done.stdout + done.stderr

# SPDX-License-Identifier: Apache-2.0
"""Compiles the C kernels beside this file into one shared library; setup.py runs it.

The library is loaded with ctypes, so neither Python's headers nor torch's are needed.
Whatever goes wrong here costs speed, never the installation.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
import os
from pathlib import Path
import shlex
import shutil
import subprocess
from zlib import crc32

from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
LIBRARY = '_kernels.abi3.so'
COST = 'sparse convolution falls back to plain torch, about 5x slower'

# -fno-trapping-math: else GCC makes no vector code of a choice between two floats
# fmt: off
BASE_FLAGS = [
    '-O3', '-std=gnu11', '-fopenmp', '-fPIC', '-fno-math-errno', '-fno-trapping-math',
    '-fvisibility=hidden',
]
AVX2_FLAGS = ['-mavx2', '-mfma']
AVX512_FLAGS = [
    *AVX2_FLAGS, '-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl',
    '-mprefer-vector-width=512',
]
BF16_FLAGS = [*AVX512_FLAGS, '-mavx512bf16']
AMX_FLAGS = [*BF16_FLAGS, '-mamx-tile', '-mamx-bf16']
# fmt: on

# Compiled once per instruction set, the rest once.
FLOAT32 = ['conv.c', 'gradient.c', 'attention.c', 'gelu.c']
AMX = ['amx.c', 'amx_pack.c']
# Sources and flags of each variant; those that a compiler is too old for are left out.
X86_VARIANTS = {
    'avx512': (FLOAT32, ['-DISA=avx512', *AVX512_FLAGS]),
    'avx2': (FLOAT32, ['-DISA=avx2', *AVX2_FLAGS]),
    'avx512bf16': (['conv.c'], ['-DISA=avx512bf16', *BF16_FLAGS]),
    'amx': (AMX, AMX_FLAGS),
}


class BuildError(Exception):
    """The compiler is missing or has refused; the text says which and why."""


class BuildKernels(build_ext):
    """The build_ext command for one library that any machine may have to do without."""

    command_name = 'build_ext'  # setuptools looks up options and prefixes warnings by it

    def run(self) -> None:
        """Build the library where it is asked for: beside the sources under `pip install -e`."""
        library = Path(self.get_ext_fullpath(self.extensions[0].name))
        try:
            self.build_library(library, Path(self.build_temp, 'kernels'))
        except (BuildError, OSError) as problem:
            # An older library must not survive: its functions may not be those of today.
            library.unlink(missing_ok=True)
            self.extensions = []  # so that no later step of the installation misses it
            self.warn(f'lidar_kd has no native kernel: {problem}; {COST}')

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library the same under every Python: it uses nothing of any."""
        return os.path.join(*fullname.split('.')[:-1], LIBRARY)

    def build_library(self, library: Path, objects: Path) -> None:
        """Compile all sources and those variants that the compiler knows, then link."""
        compiler = find_compiler()
        objects.mkdir(parents=True, exist_ok=True)
        library.parent.mkdir(parents=True, exist_ok=True)
        built = compile_variant(compiler, objects, 'portable', FLOAT32, ['-DISA=portable'])
        have = [f'-DLK_SOURCES="{digest_sources()}"']  # dispatch.c reads these
        for name, (sources, flags) in variants_for(compiler).items():
            try:
                built += compile_variant(compiler, objects, name, sources, flags)
                have.append(f'-DHAVE_{name.upper()}=1')
            except BuildError as refusal:
                self.warn(f'lidar_kd does without its {name} kernel: {refusal}')
        names = sorted(path.name for path in HERE.glob('*.c'))
        rest = [name for name in names if name not in (*FLOAT32, *AMX)]
        built += compile_variant(compiler, objects, 'any', rest, have)
        link(compiler, built, library)


def digest_sources() -> str:
    """As library.py works it out, to notice a library of other sources."""
    return f'{crc32(b"".join(path.read_bytes() for path in sorted(HERE.glob("*.[ch]")))):08x}'


def find_compiler() -> list[str]:
    """$CC, gcc or cc, as the start of a command line."""
    command = shlex.split(os.environ.get('CC', '')) or ['gcc' if shutil.which('gcc') else 'cc']
    if shutil.which(command[0]) is None:
        raise BuildError('no C compiler was found (install gcc, or name one in CC)')
    if 'clang' in run([*command, '--version']):
        # Its OpenMP calls a runtime of its own, not the libgomp that torch has loaded.
        raise BuildError(f'{command[0]} is clang (install gcc, and name it in CC)')
    return command


def variants_for(compiler: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """The variants of the machine compiled for, which need not be this one."""
    return X86_VARIANTS if run([*compiler, '-dumpmachine']).startswith('x86_64') else {}


def compile_variant(
    compiler: list[str], objects: Path, name: str, sources: list[str], flags: list[str]
) -> list[Path]:
    """The objects of one instruction set, side by side: all of them, or BuildError."""
    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(compile_source, compiler, objects, f'{name}-{source[:-2]}', source, flags)
            for source in sources
        ]
        return [job.result() for job in jobs]


def compile_source(
    compiler: list[str], objects: Path, name: str, source: str, flags: Iterable[str]
) -> Path:
    """Compile one source into an object of its own name, for variants share their source."""
    target = objects / f'{name}.o'
    run([*compiler, *BASE_FLAGS, *flags, '-c', str(HERE / source), '-o', str(target)])
    return target


def link(compiler: list[str], objects: list[Path], library: Path) -> None:
    """Link without -fopenmp: at load time GOMP_* resolve to the thread pool torch brings."""
    fresh = library.with_suffix('.tmp')
    run([*compiler, '-shared', '-o', str(fresh), *map(str, objects)])
    os.replace(fresh, library)  # a process that has the old one open keeps it


def run(command: list[str]) -> str:
    """Run a compiler and return what it printed, or raise with its first complaint."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, 'LC_ALL': 'C'}
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f'exit status {done.returncode}']
        complaint = next((line for line in lines if 'error' in line), lines[-1])
        raise BuildError(f'{command[0]}: {complaint.replace(str(HERE) + os.sep, "")}')
    return done.stdout

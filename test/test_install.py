# SPDX-License-Identifier: Apache-2.0
"""The package installs with pip and colcon, with and without a C compiler."""

from collections.abc import Mapping
import importlib.util
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
from started_command import run_command

import lidar_kd

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = 'lidar_kd/sparse/engines/native/_kernels.abi3.so'
PAGE = [p for p in (ROOT / 'lidar_kd/cli/page').iterdir() if p.suffix in ('.html', '.css', '.js')]
STUDENTS = sorted((ROOT / 'lidar_kd' / 'weights').glob('*.safetensors'))
COST = 'sparse convolution falls back to plain torch, about 5x slower'
# gcc that compiles one source with the same flags once, whichever copy of it is built; it knows
# every flag but optimises nothing: what runs fast, the set-up of this environment has built.
KEEPING_GCC = """#!{python} -IS
import hashlib, os, pathlib, shutil, subprocess, sys
words = sys.argv[1:]
if '-c' in words and '-o' in words:
    source, target = (pathlib.Path(words[words.index(word) + 1]) for word in ('-c', '-o'))
    key = ' '.join([source.name, *(word for word in words if '/' not in word)]).encode()
    key += b''.join(path.read_bytes() for path in sorted(source.parent.glob('*.[ch]')))
    kept = pathlib.Path(__file__).with_name(hashlib.sha256(key).hexdigest())
    if not kept.exists():
        code = subprocess.call(['gcc', *words, '-O0'])
        if code == 0:
            shutil.copy(target, kept)
        sys.exit(code)
    shutil.copy(kept, target)
    sys.exit()
os.execvp('gcc', ['gcc', *words])
"""
# `false` is on every PATH, takes any argument and fails as a broken compiler does.
BROKEN_COMPILER = {'CC': 'false'}
WITHOUT_COMPILER = {'PATH': '', 'CC': ''}
# --ignore-installed: or pip takes the package that is tested out of its own environment
PIP = [
    *(sys.executable, '-m', 'pip', 'install', '-v'),
    *('--no-deps', '--no-build-isolation', '--ignore-installed'),
]
SETUP = [sys.executable, 'setup.py', '-q']

needs_compiler = pytest.mark.skipif(shutil.which('gcc') is None, reason='gcc is not installed')
needs_colcon = pytest.mark.skipif(
    importlib.util.find_spec('colcon_core') is None, reason='colcon is not installed'
)


@pytest.fixture(scope='module')
def gcc(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which builds share what they compile."""
    compiler = tmp_path_factory.mktemp('compiler') / 'gcc'
    compiler.write_text(KEEPING_GCC.replace('{python}', sys.executable))
    compiler.chmod(0o755)
    return {'CC': str(compiler)}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout as a fresh clone has it: nothing built, no environment."""
    leftovers = shutil.ignore_patterns(
        '.*cache', '.git', '.hypothesis', '.venv', '__pycache__', 'runs', '*.egg-info', '*.so'
    )
    built = {str(ROOT / name) for name in ('build', 'dist', 'install', 'log')}

    def ignored(folder: str, names: list[str]) -> set[str]:
        return leftovers(folder, names) | {n for n in names if os.path.join(folder, n) in built}

    return Path(shutil.copytree(ROOT, tmp_path / 'checkout', ignore=ignored))


def run(command: list[str], folder: Path, changes: Mapping[str, str] | None = None) -> str:
    """Run `command` in `folder` with some of the environment changed; return all it says."""
    # PYTHONPATH would let the checkout stand in for what the installation forgot.
    environment = {**os.environ, 'PYTHONPATH': '', **(changes or {})}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def packages_below(prefix: Path) -> Path:
    """The folder that holds lidar_kd in the installation `prefix`."""
    (package,) = prefix.glob('lib/python3.*/*-packages/lidar_kd')
    return package.parent


def assert_in_ament_index(prefix: Path, checkout: Path) -> None:
    """The index's marker, and every launch and configuration file, lie where ROS looks."""
    share = prefix / 'share'
    assert (share / 'ament_index/resource_index/packages/lidar_kd').is_file()
    shipped = [Path('package.xml')]
    for folder in ('launch', 'config/node'):
        files = [path for path in (checkout / folder).rglob('*') if path.is_file()]
        assert files, folder
        shipped += [path.relative_to(checkout) for path in files]
    for path in shipped:
        installed = share / 'lidar_kd' / path
        assert installed.read_bytes() == (checkout / path).read_bytes()
    for script in (checkout / 'scripts').iterdir():  # `ros2 run` finds executables here only
        assert os.access(prefix / 'lib' / 'lidar_kd' / script.name, os.X_OK), script.name


def assert_has_a_student(packages: Path) -> None:
    """The weights, the page's parts, and the mark that types ship lie in the installation."""
    assert (packages / 'lidar_kd' / 'py.typed').is_file()
    for path in [*STUDENTS, *PAGE]:
        assert (packages / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def assert_loads(library: Path) -> None:
    """The kernels load once torch has brought libgomp."""
    code = f'import ctypes, torch; ctypes.CDLL({str(library)!r}).lk_find'
    done = run_command(['-c', code], cwd=library.parent, env={**os.environ, 'PYTHONPATH': ''})
    assert done.returncode == 0, done.stderr


@needs_compiler
def test_a_plain_install_has_the_kernels_and_is_found_through_the_ament_index(
    checkout: Path, tmp_path: Path, gcc: dict[str, str]
) -> None:
    prefix = tmp_path / 'prefix'
    said = run([*PIP, '--prefix', str(prefix), '.'], checkout, gcc)
    assert COST not in said
    # Only a flag that the compiler does not know may cost a variant, no error of our own.
    for refusal in re.findall('does without its .*', said):
        assert 'unrecognized' in refusal
    assert_in_ament_index(prefix, checkout)
    packages = packages_below(prefix)
    assert_has_a_student(packages)
    assert_loads(packages / LIBRARY)
    command = prefix / 'bin' / 'lidar-kd-segment'
    said = run([str(command), '--help'], tmp_path, {'PYTHONPATH': str(packages)})
    assert 'usage' in said.lower()


def test_without_a_compiler_the_package_still_installs_and_says_what_it_costs(
    checkout: Path, tmp_path: Path
) -> None:
    prefix = tmp_path / 'prefix'
    said = run([*PIP, '--prefix', str(prefix), '.'], checkout, WITHOUT_COMPILER)
    (line,) = (line for line in said.splitlines() if 'no native kernel' in line)
    assert 'no C compiler was found' in line
    assert COST in line
    assert_in_ament_index(prefix, checkout)
    packages = packages_below(prefix)
    assert_has_a_student(packages)
    assert not (packages / LIBRARY).exists()
    code = 'import lidar_kd; print(lidar_kd.__file__)'
    said = run([sys.executable, '-c', code], tmp_path, {'PYTHONPATH': str(packages)})
    assert said.strip() == str(packages / 'lidar_kd' / '__init__.py')


@needs_compiler
def test_an_editable_install_builds_the_kernels_beside_their_sources(
    checkout: Path, tmp_path: Path, gcc: dict[str, str]
) -> None:
    run([*PIP, '--prefix', str(tmp_path / 'prefix'), '-e', '.'], checkout, gcc)
    assert_loads(checkout / LIBRARY)


@needs_compiler
def test_a_failed_build_leaves_no_older_kernels_behind(
    checkout: Path, gcc: dict[str, str]
) -> None:
    build = [*SETUP, 'build_ext', '--inplace']
    run(build, checkout, gcc)
    assert (checkout / LIBRARY).exists()
    said = run(build, checkout, BROKEN_COMPILER)
    assert said.count(COST) == 1
    assert not (checkout / LIBRARY).exists()


@needs_compiler
def test_a_compiler_that_lacks_an_instruction_set_costs_only_that_variant(
    checkout: Path, tmp_path: Path, gcc: dict[str, str]
) -> None:
    # As gcc 10 does: it knows AVX-512, not AMX.
    compiler = tmp_path / 'old-gcc'
    compiler.write_text(
        '#!/bin/sh\n'
        'case "$*" in *-mamx-bf16*) echo "error: unrecognized -mamx-bf16" >&2; exit 1;; esac\n'
        f'exec {gcc["CC"]} "$@"\n'
    )
    compiler.chmod(0o755)
    said = run([*SETUP, 'build_ext', '--inplace'], checkout, {'CC': str(compiler)})
    assert 'does without its amx kernel' in said or 'x86_64' not in os.uname().machine
    assert COST not in said
    assert_loads(checkout / LIBRARY)


@needs_colcon
@pytest.mark.parametrize('layout', [[], ['--symlink-install']], ids=['plain', 'symlink-install'])
@pytest.mark.parametrize('broken', [False, True], ids=['compiler', 'no-compiler'])
def test_colcon_builds_a_package_that_the_ament_index_finds(
    checkout: Path, tmp_path: Path, layout: list[str], broken: bool, gcc: dict[str, str]
) -> None:
    colcon = [sys.executable, '-m', 'colcon', 'build', '--base-paths', str(checkout), *layout]
    said = run(colcon, tmp_path, BROKEN_COMPILER if broken else gcc)
    prefix = tmp_path / 'install' / 'lidar_kd'
    assert_in_ament_index(prefix, checkout)
    for command in ('lidar-kd-bag', 'lidar-kd-segment'):
        assert os.access(prefix / 'lib' / 'lidar_kd' / command, os.X_OK)
    if not layout:
        assert_has_a_student(packages_below(prefix))
    if broken:
        assert said.count(COST) == 1
    elif shutil.which('gcc'):
        assert_loads(checkout / LIBRARY if layout else packages_below(prefix) / LIBRARY)


def test_an_sdist_carries_what_a_build_needs(checkout: Path) -> None:
    run([*SETUP, 'sdist'], checkout)
    (archive,) = (checkout / 'dist').iterdir()
    with tarfile.open(archive) as sdist:
        held = {name.partition('/')[2] for name in sdist.getnames()}
    native = (checkout / 'lidar_kd' / 'sparse' / 'engines' / 'native').iterdir()
    wanted = {path.relative_to(checkout).as_posix() for path in native if path.is_file()}
    assert STUDENTS
    wanted |= {path.relative_to(ROOT).as_posix() for path in STUDENTS}
    wanted |= {
        'package.xml',
        'lidar_kd/py.typed',
        'resource/lidar_kd',
        'launch/README.md',
        'config/README.md',
    }
    assert wanted <= held


def test_the_package_and_its_manifest_name_one_version() -> None:
    manifest = (ROOT / 'package.xml').read_text(encoding='utf-8')
    assert f'<version>{lidar_kd.__version__}</version>' in manifest

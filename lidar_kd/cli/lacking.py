# SPDX-License-Identifier: Apache-2.0
"""What to do where a package is missing; needs only the standard library itself.

A command calls `explain_failed_imports` before it imports anything else.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from shlex import quote
import sys
from types import TracebackType

CHECKOUT = Path(__file__).resolve().parents[2]
# import name -> pip's
WHEELS = {
    'lidar_kd': '.',
    'numpy': 'numpy',
    'PIL': 'pillow',
    'pydantic': 'pydantic',
    'rich': 'rich',
    'safetensors': 'safetensors',
    'torch': 'torch',
    'yaml': 'pyyaml',
}
TRAINING_WHEELS = {'matplotlib': 'matplotlib', 'open3d': 'open3d', 'rosbags': 'rosbags'}
# numpy's words after a Ctrl-C in the middle of its first import, which torch keeps to itself
HALF_LOADED = 'cannot load module more than once per process'
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # as a shell says it: 128 and SIGINT's number


def explain_failed_imports() -> None:
    """From here on a missing package, or Ctrl-C that nobody caught, ends in one line."""
    sys.excepthook = end_in_one_line


def end_in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A sys.excepthook; what else went wrong keeps its traceback."""
    known = WHEELS | TRAINING_WHEELS
    if isinstance(error, KeyboardInterrupt) or HALF_LOADED in str(error):
        sys.stderr.write('interrupted\n')
        sys.exit(EXIT_INTERRUPTED)
    if isinstance(error, ModuleNotFoundError) and package_of(error) in known:
        sys.stderr.write(f'error: {explain_missing(error)}\n')  # the console needs rich
        sys.exit(EXIT_BAD_INPUT)
    sys.__excepthook__(kind, error, trace)


def explain_missing(error: ImportError) -> str:
    """What this Python lacks, and the line that makes the command work."""
    activate = '. .venv/bin/activate'
    if not (CHECKOUT / '.venv' / '.ready').exists():
        activate = f'make .venv/.ready && {activate}'
    place = quote(str(CHECKOUT))
    remedy = f'run in {place}: {activate}'
    if Path(sys.prefix).resolve() == (CHECKOUT / '.venv').resolve():
        remedy = f'run in {place}: {pip_line(error, WHEELS | TRAINING_WHEELS)}'
    return f'{sys.executable} has no {package_of(error)}; {remedy}'


def pip_line(error: ImportError, wheels: dict[str, str]) -> str:
    """Installs all of `wheels` that this Python lacks."""
    lacking = [pip for name, pip in wheels.items() if _is_missing(name, error)]
    return f'{quote(sys.executable)} -m pip install -c constraints.txt {" ".join(lacking)}'


def package_of(error: ImportError) -> str:
    return (error.name or '').partition('.')[0]


def _is_missing(name: str, error: ImportError) -> bool:
    return name == package_of(error) or find_spec(name) is None

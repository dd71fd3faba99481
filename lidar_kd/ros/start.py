# SPDX-License-Identifier: Apache-2.0
"""main() of a node's module, or how to install what it cannot import; needs nothing itself."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
import sys

# import name -> pip's; everything else that a node imports comes with ROS
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
EXIT_BAD_INPUT = 2


def start(module: str) -> int:
    try:
        main = import_module(module).main
    except ImportError as error:
        sys.stderr.write(f'error: {explain(error)}\n')  # the console needs rich
        return EXIT_BAD_INPUT
    return int(main())


def explain(error: ImportError) -> str:
    """What this Python lacks and the line that installs it."""
    name = (error.name or '').partition('.')[0]
    if name in WHEELS:
        lacking = [pip for each, pip in WHEELS.items() if each == name or find_spec(each) is None]
        remedy = (
            f'run in the checkout: {sys.executable} -m pip install -c constraints.txt '
            f'{" ".join(lacking)} (in an environment that sees ROS, too: python3 -m venv '
            '--system-site-packages ENV && . ENV/bin/activate)'
        )
    else:
        remedy = (
            'source your distribution (. /opt/ros/jazzy/setup.bash) or, without one, run in the '
            f"checkout: {sys.executable} -m pip install -c constraints.txt '.[ros]'"
        )
    return f'{sys.executable} cannot import {name or "a module"} ({error}); {remedy}.'

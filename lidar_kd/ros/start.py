# SPDX-License-Identifier: Apache-2.0
"""main() of a node's module, or how to install what it cannot import; needs nothing itself."""

from __future__ import annotations

from importlib import import_module
from shlex import quote
import sys

from lidar_kd.cli.lacking import EXIT_BAD_INPUT, package_of, pip_line, WHEELS


def start(module: str) -> int:
    try:
        main = import_module(module).main
    except ImportError as error:
        sys.stderr.write(f'error: {explain_import(error)}\n')  # the console needs rich
        return EXIT_BAD_INPUT
    return int(main())


def explain_import(error: ImportError) -> str:
    """What this Python lacks and the line that installs it; what pip has not comes with ROS."""
    name = package_of(error)
    if name in WHEELS:
        remedy = (
            f'run in the checkout: {pip_line(error, WHEELS)} (in an environment that sees ROS, '
            'too: python3 -m venv --system-site-packages ENV && . ENV/bin/activate)'
        )
    else:
        remedy = (
            'source your distribution (. /opt/ros/jazzy/setup.bash) or, without one, run in the '
            f"checkout: {quote(sys.executable)} -m pip install -c constraints.txt '.[ros]'"
        )
    return f'{sys.executable} cannot import {name or "a module"} ({error}); {remedy}.'

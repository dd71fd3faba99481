# SPDX-License-Identifier: Apache-2.0
"""What sets .venv up is hashed, in the versions of constraints.txt and with all of setup.py."""

from __future__ import annotations

from pathlib import Path
import re
import runpy
from unittest.mock import patch

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ('lock.txt', 'lock-ros.txt', 'torch.txt', 'torch-cpu.txt')
ENTRY = re.compile(r'^(?=[\w.-]+==)', re.MULTILINE)


def read_pins(name: str) -> dict[str, set[str]]:
    """Package -> its versions, of which markers choose one."""
    pins: dict[str, set[str]] = {}
    for entry in ENTRY.split((ROOT / name).read_text(encoding='utf-8'))[1:]:
        package, version = re.split(r'[\s;]', entry, maxsplit=1)[0].split('==')
        version = version.removesuffix('+cpu')  # a build of the same version
        pins.setdefault(normalise(package), set()).add(version)
    return pins


def normalise(package: str) -> str:
    """As pip compares names."""
    return re.sub('[-_.]+', '-', package).lower()


@pytest.mark.parametrize('name', LOCKS)
def test_a_lock_has_the_versions_of_the_constraints(name: str) -> None:
    constraints, locked = read_pins('constraints.txt'), read_pins(f'.ci/{name}')
    assert locked
    assert {n: v for n, v in locked.items() if v != constraints.get(n)} == {}


@pytest.mark.parametrize('name', LOCKS)
def test_every_package_of_a_lock_has_its_hashes(name: str) -> None:
    entries = ENTRY.split((ROOT / '.ci' / name).read_text(encoding='utf-8'))[1:]
    assert [each for each in entries if not re.search('--hash=sha256:[0-9a-f]{64}$', each)] == []


@pytest.mark.parametrize(
    ('extras', 'names'),
    [(('train', 'test'), ('lock.txt', 'torch.txt')), (('ros',), ('lock-ros.txt',))],
)
def test_the_locks_have_what_setup_asks_for(
    extras: tuple[str, ...], names: tuple[str, ...]
) -> None:
    with patch('setuptools.setup') as setup:
        runpy.run_path(str(ROOT / 'setup.py'))
    told = setup.call_args.kwargs
    wanted = [each for extra in extras for each in told['extras_require'][extra]]
    wanted += told['install_requires'] if 'train' in extras else []
    packages = {normalise(re.split(r'[\[;<>=]', each)[0].strip()) for each in wanted}
    assert packages - {package for name in names for package in read_pins(f'.ci/{name}')} == set()


def test_the_image_is_named_by_digest_is_not_root_and_stops_as_launch_does() -> None:
    """As PID 1 launch does not end on SIGTERM, which docker sends unless told."""
    words = [line.split() for line in (ROOT / 'Dockerfile').read_text().splitlines() if line]
    said = {word[0]: word[1] for word in words if len(word) > 1}
    assert re.fullmatch(r'ros:jazzy-ros-base@sha256:[0-9a-f]{64}', said['FROM'])
    assert said['USER'] not in ('root', '0')
    assert said['STOPSIGNAL'] == 'SIGINT'

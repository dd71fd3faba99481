# SPDX-License-Identifier: Apache-2.0
"""What was renamed when, so that runs of before go on; nothing else knows an old name.

0.2.0: settings, parts of a checkpoint, origins, an arm of compare.py and files in config/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import copy
from pathlib import Path
from typing import Any

from lidar_kd.errors import ConfigError

Settings = dict[str, Any]
SETTINGS = {('teacher', 'labels'): 'pseudo_labels', ('model', 'start'): 'warm_start'}
STATE = {'lesson': 'distillation', 'window': 'running_mean'}
ORIGINS = {'model.start': 'model.warm_start'}
ARMS = {'answers': 'pseudo_labels'}
FILES = {
    'config/student.yaml': 'config/streets/student.yaml',
    'config/student_teacher.yaml': 'config/teachers/minkunet_half_10cm.yaml',
    'config/streets/teacher.yaml': 'config/teachers/ptv3_7m.yaml',
    'config/streets/teacher_fine.yaml': 'config/teachers/minkunet_half_15cm.yaml',
    'config/streets/teacher_fused.yaml': 'config/teachers/ptv3_7m_fused.yaml',
    'config/streets/teacher_wide.yaml': 'config/teachers/minkunet_half_20cm.yaml',
    'config/teacher.yaml': 'config/teachers/ptv3_3m.yaml',
    'config/teacher_fused.yaml': 'config/teachers/minkunet_half_fused.yaml',
}


def rename_settings(old: Mapping[str, Any]) -> Settings:
    """The configuration that a run left, in the names of today."""
    settings = copy.deepcopy(dict(old))
    for (place, before), now in SETTINGS.items():
        section = settings.get(place)
        if isinstance(section, dict) and before in section:
            section[now] = section.pop(before)
    name = settings.get('name')
    if isinstance(name, str):
        settings['name'] = _rename_run(name)
    for teacher in find_teacher_sections(settings):
        if teacher.get('config'):
            teacher['config'] = rename_file(str(teacher['config']))
    return settings


def refuse_old_settings(settings: Mapping[str, Any], where: str) -> None:
    """What somebody writes today has the names of today."""
    for (place, before), now in SETTINGS.items():
        section = settings.get(place)
        if isinstance(section, dict) and before in section:
            raise ConfigError(f"{where}: {place}.{before} is called '{now}' now; rename the key.")


def rename_state(old: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's parts."""
    return {STATE.get(key, key): value for key, value in old.items()}


def rename_origins(old: Mapping[str, str]) -> dict[str, str]:
    return {ORIGINS.get(key, key): value for key, value in old.items()}


def rename_file(path: str) -> str:
    """A file of config/, in whichever checkout it lies."""
    for before, now in FILES.items():
        if path == before or path.endswith(f'/{before}'):
            return path.removesuffix(before) + now
    return path


def find_run(folder: Path, name: str) -> Path:
    """Where a comparison's run lies: one from before under its arm's old name."""
    for before, now in ARMS.items():
        old = folder / f'{before}-{name.removeprefix(f"{now}-")}'
        if name.startswith(f'{now}-') and old.is_dir() and not (folder / name).is_dir():
            return old
    return folder / name


def refuse_old_arm(arm: str) -> None:
    if arm in ARMS:
        raise ConfigError(f"--methods {arm}: is called '{ARMS[arm]}' now; write that.")


def spell_as_before(settings: str) -> str:
    """JSON of settings as it once was: its digest names folders."""
    for (_, before), now in SETTINGS.items():
        settings = settings.replace(f'"{now}":', f'"{before}":')
    return settings


def find_teacher_sections(settings: Mapping[str, Any]) -> Iterator[Settings]:
    """The main teacher's and those of methods that have their own."""
    own = settings.get('teachers')
    for teacher in (settings.get('teacher'), *(own.values() if isinstance(own, dict) else ())):
        if isinstance(teacher, dict):
            yield teacher


def _rename_run(name: str) -> str:
    arm, dash, seed = name.rpartition('-')
    return f'{ARMS.get(arm, arm)}{dash}{seed}'

# SPDX-License-Identifier: Apache-2.0
"""Hostile configurations of a training run, in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from training.hostile.damage import damage_bytes, ESCAPE, pick, Rng, spoil_document
from training.hostile.templates import run_settings
from training.run.config import load_config

ENCODINGS = ('utf-16', 'utf-32', 'latin-1', 'utf-8-sig', 'utf-7', 'cp037')
DEPTHS = (10, 500, 5000, 100_000)
ALIASES = (3, 10, 20)


def make_yaml(folder: Path, rng: Rng) -> Path:
    path = folder / 'config.yaml'
    chance = rng.random()
    settings: Any = run_settings(folder / 'street')
    if chance < 0.15:
        path.write_bytes(_odd_text(rng))
        return path
    if chance < 0.65:
        settings = spoil_document(settings, rng)
    try:
        text = yaml.safe_dump(settings, allow_unicode=True)
    except RecursionError:
        text = repr(settings)  # nested as deep, though not as YAML writes it
    data = text.encode('utf-8', 'surrogatepass')
    if chance > 0.9:
        data = (text + '# \u00e9\n').encode(pick(ENCODINGS, rng), 'replace')
    elif chance > 0.65:
        data = damage_bytes(data, rng)
    path.write_bytes(data)
    return path


def _odd_text(rng: Rng) -> bytes:
    depth = int(pick(DEPTHS, rng))
    doubling = '\n'.join(
        f'a{level}: &a{level} [*a{level - 1}, *a{level - 1}]'
        for level in range(1, 1 + int(pick(ALIASES, rng)))
    )
    texts = (
        'name: ' + '[' * depth,
        'name: ' + '[' * depth + ']' * depth,
        'data: ' + '{a: ' * depth + '}' * depth,
        '- ' * depth,
        f'a0: &a0 [x, x]\n{doubling}\n',
        'a: &a [*a]\n',
        'data: &d {root: *d}\n',
        'data:\n  <<: *x\n',
        '!!python/object/apply:os.system [ls]\n',
        '!!binary "//8="\n',
        'name: !!timestamp 9999-99-99\n',
        'seed: ' + '9' * 5000,
        'seed: 1e' + '9' * 50,
        '? [a, b]\n: c\n',
        '? {a: b}\n: c\n',
        '\x00',
        'name: "\\u001b[31m\\U0010ffff"\n',
        f'name: {ESCAPE}',
        '%YAML 9.9\n---\na: b\n',
        '--- a\n--- b\n',
        'a: ' * 20_000,
        ('k: v\n' * 3000),
        ''.join(f'k{number}: v\n' for number in range(50_000)),
    )
    return str(pick(texts, rng)).encode('utf-8', 'replace')


def use_yaml(path: Path) -> None:
    load_config(path)

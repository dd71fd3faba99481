# SPDX-License-Identifier: Apache-2.0
"""Hostile bundles, checkpoints of runs and files of weights from elsewhere."""

from __future__ import annotations

import io
import json
from pathlib import Path
import pickle
import struct
from typing import Any
import zipfile

import numpy as np

from lidar_kd.bundle import load_bundle, read_spec
from lidar_kd.segmenter import Segmenter
from training.hostile.damage import damage_bytes, LONG, nest, pick, Rng, spoil_document
from training.importing.reading import read_checkpoint
from training.run.checkpoint import load_checkpoint

SETTINGS: tuple[dict[str, Any], ...] = (
    {'width': 1e9},
    {'width': float('1e300')},
    {'width': -1},
    {'width': '1'},
    {'width': [1]},
    {'width': 64.0},
    {'in_channels': 10**12},
    {'in_channels': 0},
    {'in_channels': 2.5},
    {'unknown': 1},
    {},
)
STAGES: tuple[dict[str, Any], ...] = (
    {'encoder_depths': [1] * 2000},
    {'encoder_channels': [8] * 2000, 'encoder_depths': [1] * 2000, 'encoder_heads': [1] * 2000},
    {'encoder_depths': [200_000, 2, 2, 6, 2]},
    {'point_hidden': [8] * 20_000},
    {'point_hidden': [8] * 200_000},
    {'layers': [1] * 20_000},
    {'channels': [8] * 20_000, 'layers': [1] * 20_000},
    {'encoder_channels': [10**9] * 5},
    {'encoder_heads': [0] * 5},
    {'patch': 2**40},
    {'decoder_depths': [-1] * 4},
)
NAMES = ('minkunet', 'spvcnn', 'spunet', 'ptv3', 'litept', 'cylinder3d', 'ptv3_103m')


def make_bundle(folder: Path, rng: Rng, templates: Path) -> Path:
    path = folder / 'network.safetensors'
    data = (templates / 'network.safetensors').read_bytes()
    chance = rng.random()
    if chance < 0.3:
        path.write_bytes(damage_bytes(data, rng))
        return path
    size = int.from_bytes(data[:8], 'little')
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    if chance < 0.5:
        header = spoil_document(header, rng)
    elif chance < 0.95:
        header['__metadata__']['lidar_kd'] = _spoil_spec(header['__metadata__']['lidar_kd'], rng)
    else:
        return _write_extreme(path, header, body, rng)
    _write_safetensors(path, header, body)
    return path


def _write_safetensors(path: Path, header: Any, body: bytes) -> None:
    text = json.dumps(header).encode('utf-8', 'replace')
    path.write_bytes(struct.pack('<Q', len(text)) + text + body)


def _spoil_spec(text: str, rng: Rng) -> str:
    spec = json.loads(text)
    chance = rng.random()
    if chance < 0.25:
        spec['model'] = {'name': pick(NAMES, rng), 'settings': pick(STAGES, rng)}
    elif chance < 0.45:
        spec['model']['settings'] = pick(SETTINGS, rng)
    elif chance < 0.6:
        spec['model'] = spoil_document(spec['model'], rng)
    elif chance < 0.75:
        spec['grid'] = spoil_document(spec['grid'], rng)
    elif chance < 0.9:
        spec['labels'] = spoil_document(spec['labels'], rng)
    elif chance < 0.98:
        return damage_bytes(text.encode(), rng).decode('utf-8', 'replace')
    else:
        return '{"model": ' + '[' * LONG
    return json.dumps(spec)


def _write_extreme(path: Path, header: dict[str, Any], body: bytes, rng: Rng) -> Path:
    """A million empty tensors, one of 8 GB, or one of many dimensions."""
    which = int(rng.integers(3))
    if which == 0:
        empty = {'dtype': 'F32', 'shape': [0], 'data_offsets': [len(body), len(body)]}
        header |= {f'empty{number}': empty for number in range(10**6)}
    elif which == 1:
        size = 8 << 30
        header['large'] = {'dtype': 'F32', 'shape': [size // 4],
                           'data_offsets': [len(body), len(body) + size]}  # fmt: skip
        _write_safetensors(path, header, body)
        with path.open('r+b') as file:
            file.truncate(path.stat().st_size + size)
        return path
    else:
        header['deep'] = {'dtype': 'F32', 'shape': [1] * int(pick((65, 1000, LONG), rng)),
                          'data_offsets': [len(body), len(body) + 4]}  # fmt: skip
        body += bytes(4)
    _write_safetensors(path, header, body)
    return path


def use_bundle(path: Path) -> None:
    """Described, loaded, and asked about a small cloud."""
    read_spec(path)
    bundle = load_bundle(path)
    bundle.require_columns()
    points = np.random.default_rng(1).uniform(-5, 5, (50, 4)).astype(np.float32)
    Segmenter(bundle, device='cpu').segment(points)


def make_checkpoint(folder: Path, rng: Rng, templates: Path) -> Path:
    path = folder / 'last.pt'
    data = (templates / 'run' / 'last.pt').read_bytes()
    path.write_bytes(spoil_torch_file(data, rng))
    return path


def spoil_torch_file(data: bytes, rng: Rng) -> bytes:
    """The whole file, or the pickle in it with checksums that are right."""
    if rng.random() < 0.4:
        return damage_bytes(data, rng)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, 'w') as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith('data.pkl'):
                content = spoil_pickle(content, rng)
            elif rng.random() < 0.05:
                content = damage_bytes(content, rng)
            new.writestr(name, content)
    return file.getvalue()


def spoil_pickle(content: bytes, rng: Rng) -> bytes:
    chance = rng.random()
    if chance < 0.15:  # LONG_BINPUT far beyond what was put before
        index = struct.pack('<I', int(pick((2**20, 2**29, 2**31, 2**32 - 1), rng)))
        return content[:2] + b'}r' + index + content[2:]
    if chance < 0.3:
        return pickle.dumps(pick((nest(250), [], {}, None, 7, {'model': 3}, {'step': -1}), rng), 2)
    if chance < 0.4:
        length = struct.pack('<Q', int(pick((2**20, 2**33, 2**62), rng)))
        return b'\x80\x04' + pick((b'\x8d', b'\x8e', b'\x96'), rng) + length + content
    return damage_bytes(content, rng)


def use_checkpoint(path: Path) -> None:
    load_checkpoint(path)


def make_weights(folder: Path, rng: Rng, templates: Path) -> Path:
    name = str(pick(('weights.pt', 'old.pt', 'network.safetensors'), rng))
    data, path = (templates / name).read_bytes(), folder / name
    if name == 'weights.pt':
        path.write_bytes(spoil_torch_file(data, rng))
    elif name == 'old.pt' and rng.random() < 0.5:
        path.write_bytes(spoil_pickle(data, rng))
    else:
        path.write_bytes(damage_bytes(data, rng))
    return path


def use_weights(path: Path) -> None:
    read_checkpoint(path)

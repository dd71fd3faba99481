# SPDX-License-Identifier: Apache-2.0
"""What happens to files: flipped bits, lost ends, numbers nobody meant, values of odd types."""

from __future__ import annotations

from collections.abc import Callable
import re
from typing import Any

import numpy as np

Rng = np.random.Generator
ODD_INTEGERS = (
    *(0, 1, -1, 3, 7, 64, 65, 255, 65536, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**63 - 1, 2**63, 2**64, -(2**63), 10**18, 10**30),
)
ODD_WORDS = ('', ' ', 'nan', 'inf', '-inf', '1e308', '1e-320', '0x10', 'true', 'x' * 5000)
ESCAPE = '\x1b]0;hostile\x07\x1b[31m'  # a terminal would change its title and its colour
LONG = 100_000


def pick(choices: Any, rng: Rng) -> Any:
    return choices[int(rng.integers(len(choices)))]


def damage_bytes(data: bytes, rng: Rng) -> bytes:
    """One to three of the ways in which a copy differs from what was copied."""
    for _ in range(int(rng.integers(1, 4))):
        if data:
            data = pick(_DAMAGES, rng)(data, rng)
    return data


def _flip(data: bytes, rng: Rng) -> bytes:
    spoilt = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        spoilt[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def _flip_near_an_end(data: bytes, rng: Rng) -> bytes:
    """Headers and directories lie there."""
    at = int(rng.integers(min(len(data), 200)))
    at = pick((at, len(data) - 1 - at), rng)
    return data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :]


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _drop(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:first] + data[last:]


def _repeat(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:last] + data[first:]


def _write_integer(data: bytes, rng: Rng) -> bytes:
    """A length or an offset that is none."""
    width = int(pick((1, 2, 4, 8), rng))
    number = int(pick(ODD_INTEGERS, rng)) % (1 << 8 * width)
    at = int(rng.integers(max(1, len(data) - width)))
    return data[:at] + number.to_bytes(width, pick(('little', 'big'), rng)) + data[at + width :]


def _replace_number(data: bytes, rng: Rng) -> bytes:
    """One number in a text, or in the part of a file that is one."""
    found = list(re.finditer(rb'-?\d+', data[:20_000]))
    if not found:
        return data
    match = pick(found, rng)
    word = str(pick((*ODD_INTEGERS, *ODD_WORDS), rng)).encode()
    return data[: match.start()] + word + data[match.end() :]


def _fill(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:first] + bytes([int(pick((0, 255, 32), rng))]) * (last - first) + data[last:]


_DAMAGES: tuple[Callable[[bytes, Rng], bytes], ...] = (
    *(_flip, _flip_near_an_end, _flip_near_an_end, _cut, _drop, _repeat),
    *(_write_integer, _write_integer, _replace_number, _replace_number, _fill),
)


def odd_value(rng: Rng) -> Any:
    """What JSON, YAML or a pickle may hold where something else is meant."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: int(pick(ODD_INTEGERS, rng)),
        lambda: float(pick((np.nan, np.inf, -np.inf, 1e308, -0.0, 0.5, 1e-320), rng)),
        lambda: pick((None, True, False), rng),
        lambda: pick((*ODD_WORDS, ESCAPE, '\u0000', '\ud800', 'y' * LONG, '../..', '.'), rng),
        lambda: pick(([], {}, [[]], [None], {'a': 1}), rng),
        lambda: [int(pick(ODD_INTEGERS, rng))] * int(pick((1, 5, 70, 2000, LONG), rng)),
        lambda: nest(int(pick((3, 70, 250), rng))),
    )
    return pick(kinds, rng)()


def nest(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def spoil_document(document: Any, rng: Rng) -> Any:
    """The same, but for one or two of its values; what was passed in stays as it is."""
    document = _spoil(document, rng)
    if rng.random() < 0.3:
        document = _spoil(document, rng)
    return document


def _spoil(value: Any, rng: Rng) -> Any:
    deeper = isinstance(value, dict | list) and len(value) > 0 and rng.random() < 0.85
    if not deeper:
        return odd_value(rng)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, copied = pick(keys, rng), value.copy()
    chance = rng.random()
    if chance < 0.1:
        del copied[key]
    elif chance < 0.15 and isinstance(copied, dict):
        copied[pick(('', 'x' * LONG, ESCAPE, 'unknown'), rng)] = copied.pop(key)
    elif chance < 0.2 and isinstance(copied, list):
        copied *= int(pick((2, 100, 20_000), rng))
    else:
        copied[key] = _spoil(copied[key], rng)
    return copied

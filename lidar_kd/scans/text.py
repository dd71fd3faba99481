# SPDX-License-Identifier: Apache-2.0
"""Numbers written as text, read piece by piece: split at once, they take 30 times their size."""

import re

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 20
_SPACE = re.compile(rb'\s')


def parse_numbers(text: bytes, most: int) -> NDArray[np.float64]:
    """All words of a text; one more than `most` where there are more. ValueError where a word is
    no number.
    """
    parts, found, at = [np.zeros(0)], 0, 0
    while at < len(text) and found <= most:
        space = _SPACE.search(text, at + _PIECE)
        end = space.start() if space else len(text)
        words = text[at:end].decode('ascii', 'replace').split()[: most + 1 - found]
        parts.append(np.array(words, np.float64))
        found, at = found + len(words), end
    return np.concatenate(parts)


def find_line(text: bytes, number: int) -> int:
    """Where line `number` begins, counted without empty lines; the end where there are fewer."""
    at = 0
    while number > 0 and at < len(text):
        end = text.find(b'\n', at) + 1 or len(text)
        number -= bool(text[at:end].strip())
        at = end
    return at

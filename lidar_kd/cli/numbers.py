# SPDX-License-Identifier: Apache-2.0
"""Numbers on a command line: what cannot be meant is refused with a sentence."""

from __future__ import annotations

import argparse
import math


def read_positive(word: str) -> float:
    if not 0 < float(word) < math.inf:
        raise argparse.ArgumentTypeError(f'{word} is no number above 0')
    return float(word)


def read_count(word: str) -> int:
    """How many: one at least."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f'{word} is no whole number from 1 on')
    return int(word)


def read_share(word: str) -> float:
    """A part of a whole, neither nothing nor all of it."""
    if not 0 < float(word) < 1:
        raise argparse.ArgumentTypeError(f'{word} is no number between 0 and 1')
    return float(word)

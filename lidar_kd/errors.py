# SPDX-License-Identifier: Apache-2.0
"""Errors a user can cause: one sentence each, saying what, where and the remedy."""

MOST_SAID = 1000  # characters of a sentence; a damaged file may quote itself at any length


def make_printable(text: str) -> str:
    """Without what a terminal would obey or cannot show."""
    if text.isprintable():
        return text
    return ''.join(c if c.isprintable() or c == '\n' else '?' for c in text)


class LidarKdError(ValueError):
    """A user's mistake; commands print its sentence without a traceback and exit 2."""

    def __str__(self) -> str:
        sentence = make_printable(super().__str__())
        if len(sentence) <= MOST_SAID:
            return sentence
        half = MOST_SAID // 2
        return f'{sentence[:half]} ... {sentence[-half:]}'  # what and where; the remedy


class ConfigError(LidarKdError):
    """A setting, option or name that cannot be used."""


class DataError(LidarKdError):
    """A scan, label or folder that cannot be read or written."""


class BundleError(LidarKdError):
    """A bundle file that cannot be loaded or written."""

# SPDX-License-Identifier: Apache-2.0
"""Errors a user can cause: one sentence each, saying what, where and the remedy."""


class LidarKdError(ValueError):
    """A user's mistake; commands print its sentence without a traceback and exit 2."""


class ConfigError(LidarKdError):
    """A setting, option or name that cannot be used."""


class DataError(LidarKdError):
    """A scan, label or folder that cannot be read or written."""


class BundleError(LidarKdError):
    """A bundle file that cannot be loaded or written."""

# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation of LiDAR scans by distilled sparse networks."""

__version__ = '0.1.0'

# SPDX-License-Identifier: Apache-2.0
"""Labelled scans as one HTML file that any browser shows, without a network or a program."""

from lidar_kd.cli.page.encode import PageScan
from lidar_kd.cli.page.writer import choose_page_rows, PageWriter, writing_page

__all__ = ['PageScan', 'PageWriter', 'choose_page_rows', 'writing_page']

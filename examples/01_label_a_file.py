# SPDX-License-Identifier: Apache-2.0
"""Labels one scan file: python examples/01_label_a_file.py SCAN"""

from pathlib import Path
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.bundle import find_shipped_bundle
from lidar_kd.cli.console import Console
from lidar_kd.scans import read_scan
from lidar_kd.segmenter import Segmenter


def main(scan: str) -> None:
    segmenter = Segmenter(find_shipped_bundle())
    labels = segmenter.segment(read_scan(Path(scan))).labels
    for train_id, name in enumerate(segmenter.spec.labels.names):
        Console().line(f'{name}: {(labels == train_id).sum()} points')


if __name__ == '__main__':
    main(sys.argv[1])

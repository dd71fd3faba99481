# SPDX-License-Identifier: Apache-2.0
"""Labels one scan file: python examples/01_label_a_file.py SCAN"""

import argparse
from pathlib import Path
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd import find_shipped_bundle, Segmenter
from lidar_kd.cli.console import Console
from lidar_kd.errors import LidarKdError
from lidar_kd.scans import read_scan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('scan', type=Path, metavar='SCAN', help='.bin, .pcd, .ply, .npy or .npz')
    scan, console = parser.parse_args().scan, Console()
    try:
        segmenter = Segmenter(find_shipped_bundle())
        labels = segmenter.segment(read_scan(scan)).labels
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    for train_id, name in enumerate(segmenter.spec.labels.names):
        console.line(f'{name}: {(labels == train_id).sum()} points')
    return 0


if __name__ == '__main__':
    sys.exit(main())

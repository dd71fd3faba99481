# SPDX-License-Identifier: Apache-2.0
"""Labels a PointCloud2 without ROS: python examples/02_label_a_cloud.py"""

from pathlib import Path
import sys
from types import SimpleNamespace

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from lidar_kd import find_shipped_bundle, Segmenter
from lidar_kd.cli.console import Console
from lidar_kd.cloud import decode
from lidar_kd.cloud.codec import encode_labeled
from lidar_kd.cloud.layout import Field, FLOAT32


def main() -> None:
    points = np.random.default_rng(0).uniform(-20, 20, (1000, 4)).astype('<f4')
    names = ('x', 'y', 'z', 'intensity')
    fields = [Field(name, 4 * i, FLOAT32, 1) for i, name in enumerate(names)]
    message = SimpleNamespace(
        fields=fields, height=1, width=1000, point_step=16, row_step=16000,
        is_bigendian=False, is_dense=True, data=points.tobytes(),
    )  # fmt: skip
    segmenter, cloud = Segmenter(find_shipped_bundle()), decode(message)
    labels = segmenter.segment(cloud.points).labels
    labelled = encode_labeled(cloud, labels, segmenter.spec.labels)
    Console().line(f'{labelled.width} points with {[f.name for f in labelled.fields]}')


if __name__ == '__main__':
    main()

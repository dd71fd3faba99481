# SPDX-License-Identifier: Apache-2.0
"""Distils on unlabelled scans: python examples/03_distil_on_a_folder.py SCANS --set KEY=VALUE ...

SCANS is a folder. Labels come from what the configuration names, simulated streets by default.
"""

from pathlib import Path
import sys

sys.path[0] = str(ROOT := Path(__file__).resolve().parents[1])

from lidar_kd.cli.console import Console
from lidar_kd.errors import DataError
from training.run.perform import distill, main


def run(words: list[str]) -> int:
    if not words or not Path(words[0]).is_dir():
        return Console().fail(DataError('SCANS: name a folder of scans first, as in 03_... SCANS'))
    folder = Path(words[0]).resolve()
    chosen = f'data.unlabelled=[{{kind: folder, root: {folder}}}]'
    sys.argv = [sys.argv[0], *words[1:], '--set', chosen]
    return main(__doc__ or '', distill, ROOT / 'config/srkd.yaml')


if __name__ == '__main__':
    sys.exit(run(sys.argv[1:]))

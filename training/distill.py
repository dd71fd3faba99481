# SPDX-License-Identifier: Apache-2.0
"""Trains a small network with the help of a large one: SRKD, PVKD, M2SKD, or several of them.

  python training/distill.py --cfg config/srkd.yaml
  python training/distill.py --cfg config/pvkd.yaml \
      --set teacher.config=null --set teacher.bundle=TEACHER.safetensors
  python training/distill.py --cfg config/srkd.yaml --set 'method=[srkd, m2skd]'

A teacher that the configuration only describes is trained first. Interrupted, the same line goes
on from the last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from training.run.perform import distill, main

if __name__ == '__main__':
    sys.exit(main(__doc__ or '', distill, ROOT / 'config' / 'srkd.yaml'))

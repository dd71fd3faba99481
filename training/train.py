# SPDX-License-Identifier: Apache-2.0
"""Trains a network on labelled scans and leaves a bundle, a report and pictures.

  python training/train.py --cfg config/baseline.yaml
  python training/train.py --cfg config/baseline.yaml --set optim.epochs=20 --out runs/longer
  torchrun --nproc_per_node 4 training/train.py --cfg config/semantickitti/teacher.yaml

Interrupted (Ctrl-C, or worse), the same line goes on from the last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from training.run.perform import main, train

if __name__ == '__main__':
    sys.exit(main(__doc__ or '', train, ROOT / 'config' / 'baseline.yaml'))

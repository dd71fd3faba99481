# SPDX-License-Identifier: Apache-2.0
"""Distils on unlabelled scans: python examples/03_distil_on_a_folder.py SCANS --set KEY=VALUE ...

SCANS is a folder. Labels come from what the configuration names, simulated streets by default.
"""

from pathlib import Path
import sys

sys.path[0] = str(ROOT := Path(__file__).resolve().parents[1])

from training.run.perform import distill, main

if __name__ == '__main__':
    scans = Path(sys.argv.pop(1)).resolve()
    sys.argv += ['--set', f'data.unlabelled=[{{kind: folder, root: {scans}}}]']
    sys.exit(main(__doc__ or '', distill, ROOT / 'config/srkd.yaml'))

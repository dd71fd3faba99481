# SPDX-License-Identifier: Apache-2.0
"""What every test relies on: the checkout on sys.path, this environment in the ament index."""

import os
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Nothing sets it for a pip user, and ament_index_python looks nowhere else.
prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join(filter(None, prefixes))

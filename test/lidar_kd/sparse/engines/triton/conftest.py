# SPDX-License-Identifier: Apache-2.0
"""Where there is no GPU, Triton's interpreter runs the kernels. It is chosen when they are
defined, hence before a test imports them.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

# SPDX-License-Identifier: Apache-2.0
"""What `training/bench.py` measures, one file per benchmark.

Everything that is compared runs interleaved in one process on the same distinct scans; what is
quoted are medians and ratios, because the machines are shared.
"""

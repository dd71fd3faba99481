# SPDX-License-Identifier: Apache-2.0
"""Files that no honest program writes, and whether what reads them holds; for bench.py hostile."""

# SPDX-License-Identifier: Apache-2.0
"""What compare.py tells of runs with and without each method."""

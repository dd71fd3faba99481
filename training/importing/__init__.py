# SPDX-License-Identifier: Apache-2.0
"""How published code bases name their tensors, and ours in their place."""

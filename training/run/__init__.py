# SPDX-License-Identifier: Apache-2.0
"""A training run: configuration to batches, distillation, steps, checkpoints."""

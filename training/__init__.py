# SPDX-License-Identifier: Apache-2.0
"""The training pipeline; run from the checkout, never installed."""

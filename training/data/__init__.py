# SPDX-License-Identifier: Apache-2.0
"""Scans to train on: read, checked, augmented and put into batches; and streets to make them."""

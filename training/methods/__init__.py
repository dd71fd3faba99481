# SPDX-License-Identifier: Apache-2.0
"""Distillation methods: each is a list of terms with their weights and samplers."""

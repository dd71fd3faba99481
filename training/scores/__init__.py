# SPDX-License-Identifier: Apache-2.0
"""Scoring over original points: answers, stored predictions, submissions."""

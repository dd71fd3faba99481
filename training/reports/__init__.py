# SPDX-License-Identifier: Apache-2.0
"""What a run leaves for people: tables, curves, confusion matrix, pictures."""

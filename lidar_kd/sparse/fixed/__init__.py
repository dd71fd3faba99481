# SPDX-License-Identifier: Apache-2.0
"""Inference at fixed shapes: maps and layers that never ask a device how many rows there are, so
that a scan waits for nothing before its answers come down, and a CUDA graph can replay it.
"""

# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution in Triton: kernels for NVIDIA GPUs, Jetson too, without CUDA's compiler."""

# SPDX-License-Identifier: Apache-2.0
"""What computes a sparse convolution: plain torch, native C kernels for CPUs, spconv for CUDA."""

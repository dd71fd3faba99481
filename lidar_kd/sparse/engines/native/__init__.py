# SPDX-License-Identifier: Apache-2.0
"""The CPU engine: C kernels for AVX2, AVX-512, AMX and portable vectors, called by ctypes."""

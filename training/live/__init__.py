# SPDX-License-Identifier: Apache-2.0
"""The processes of the live demo and benchmark, and who listens to them."""

# SPDX-License-Identifier: Apache-2.0
"""What view.py shows, in a window or as a picture."""

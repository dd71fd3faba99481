# SPDX-License-Identifier: Apache-2.0
"""What a person sees without ROS: the segment command, progress and tables, pictures."""

# SPDX-License-Identifier: Apache-2.0
"""Everything that knows ROS: the node, its parameters and topics, and the replay."""

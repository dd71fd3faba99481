# SPDX-License-Identifier: Apache-2.0
"""`replay_node`: publishes recorded scans as the driver of a sensor would."""

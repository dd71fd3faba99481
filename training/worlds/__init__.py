# SPDX-License-Identifier: Apache-2.0
"""The varied world: scenes with crossings, kerbs and gardens, any sensor, no two scans alike.

kinds -> network (where the streets run) -> frontage (what lies beside them) -> ground
scene: ground, then housing, planting, parking, passing (what stands and who moves)
devices, mounts, standpoint (who looks) -> habits, receive (what is reported) -> generate
Shapes, materials, ray casting and the layout on disk are those of training.streets.
"""

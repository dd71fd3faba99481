# SPDX-License-Identifier: Apache-2.0
"""A LiDAR street simulator: procedural towns and roads, sensors by name, labelled scans.

materials -> mesh -> vehicles, people, plants, furniture, buildings (what there is)
course -> quarters -> road -> town, traffic, drive (where it is, and when)
sensors -> cast -> returns (what the sensor reports) -> sequence -> writer, make, compare
"""

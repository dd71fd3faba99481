# SPDX-License-Identifier: Apache-2.0
"""Objects and costmaps as messages; each file needs a package that not every machine has."""

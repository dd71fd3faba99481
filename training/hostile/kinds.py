# SPDX-License-Identifier: Apache-2.0
"""The kinds of hostile input: who makes one, who reads it, and how many of a hundred it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.hostile import clouds, folders, networks, scans, texts
from training.hostile.damage import Rng


@dataclass(frozen=True, kw_only=True)
class Kind:
    share: int  # of a hundred cases
    make: Callable[[Path, Rng], Path]  # into an empty folder
    use: Callable[[Path], None]


def list_kinds(templates: Path) -> dict[str, Kind]:
    def copied(make: Callable[..., Path]) -> Callable[[Path, Rng], Path]:
        return partial(_swap, make, templates)

    return {
        'npz': Kind(share=11, make=scans.make_npz, use=scans.use_scan),
        'npy': Kind(share=9, make=scans.make_npy, use=scans.use_scan),
        'bin': Kind(share=3, make=scans.make_bin, use=scans.use_scan),
        'pcd': Kind(share=10, make=scans.make_pcd, use=scans.use_scan),
        'ply': Kind(share=9, make=scans.make_ply, use=scans.use_scan),
        'cloud': Kind(share=11, make=clouds.make_message, use=clouds.use_cloud),
        'bag': Kind(share=6, make=clouds.make_bag, use=clouds.use_bag),
        'bundle': Kind(share=9, make=copied(networks.make_bundle), use=networks.use_bundle),
        'checkpoint': Kind(
            share=7, make=copied(networks.make_checkpoint), use=networks.use_checkpoint
        ),
        'importer': Kind(share=8, make=copied(networks.make_weights), use=networks.use_weights),
        'yaml': Kind(share=7, make=texts.make_yaml, use=texts.use_yaml),
        'archive': Kind(share=3, make=copied(folders.make_archive), use=folders.use_archive),
        'nuscenes': Kind(share=3, make=copied(folders.spoil_tables), use=folders.use_dataset),
        'dataset': Kind(share=2, make=copied(folders.make_dataset), use=folders.use_dataset),
        'run': Kind(share=2, make=copied(folders.make_run_folder), use=folders.use_run_folder),
    }


def _swap(make: Callable[..., Path], templates: Path, folder: Path, rng: Rng) -> Path:
    return make(folder, rng, templates)


def choose_kind(kinds: dict[str, Kind], number: int) -> str:
    """The same kind for the same case, whatever the seed: a hundred cases have every kind."""
    names = [name for name, kind in kinds.items() for _ in range(kind.share)]
    return names[number * 37 % len(names)]  # 37 and 100 have no common divisor


def rng_of(seed: int, number: int) -> Any:
    return np.random.default_rng([seed, number])

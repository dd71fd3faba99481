# SPDX-License-Identifier: Apache-2.0
"""Scores while a run trains: which weights are kept, and when waiting for better ones ends."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import torch
from torch import nn

from lidar_kd.bundle import Bundle, BundleSpec
from lidar_kd.errors import DataError
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor import EACH_ALONE
from lidar_kd.sparse import select_engine
from training.data.scan import ScanSet
from training.run.config import Validate
from training.run.ranks import Ranks
from training.scores.metrics import Confusion
from training.scores.scoring import score


class Validation:
    """Scores a network as a robot would run it, and knows the best score so far."""

    def __init__(
        self,
        settings: Validate,
        scans: ScanSet,
        spec: BundleSpec,
        *,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self._settings, self._scans, self._spec = settings, scans, spec
        self._device, self._ranks = device, ranks
        self.best_miou, self.best_step = -1.0, 0
        self.stale = 0  # rounds without a better mIoU

    @property
    def is_stale(self) -> bool:
        patience = self._settings.patience
        return patience is not None and self.stale >= patience

    def score_network(self, network: nn.Module) -> Confusion:
        """On the scans of all ranks."""
        bundle = Bundle(model=network, spec=self._spec)
        segmenter = Segmenter(bundle, device=str(self._device), sensor=EACH_ALONE)
        confusion = score(
            lambda points: segmenter.segment(points).labels,
            self._scans,
            rank=self._ranks.rank,
            world=self._ranks.world,
        )
        confusion.sum_over_ranks(self._device)
        select_engine(self._device).memory.tune(live=False)
        return confusion

    def keeps(self, confusion: Confusion, step: int) -> bool:
        """Notes the score of these weights; whether they are the ones to keep."""
        miou = confusion.occurring().value
        if math.isnan(miou):
            raise DataError(
                f'{self._scans.root}: the scans to score hold no labelled point; '
                'change data.validation.'
            )
        better = miou > self.best_miou
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best_miou, self.best_step = miou, step
        return better or self._settings.keep == 'last'

    def make_row(self, confusion: Confusion, step: int) -> dict[str, Any]:
        """For the run's metrics."""
        hard = confusion.occurring([int(c) for c in self._spec.labels.hard_ids]).value
        iou = [None if math.isnan(value) else round(float(value), 5) for value in confusion.iou()]
        return {'step': step, 'miou': confusion.occurring().value, 'hard_miou': hard, 'iou': iou}

    def describe_weights(self, confusion: Confusion, step: str) -> BundleSpec:
        """The bundle's description with what is known of these weights."""
        facts = {
            **self._spec.provenance,
            'step': step,
            'validation_miou': f'{confusion.occurring().value:.4f} (classes that occur)',
        }
        return self._spec.model_copy(update={'provenance': facts})

    def state(self) -> list[float]:
        return [self.best_miou, self.best_step, self.stale]

    def load_state(self, state: Sequence[Any]) -> None:
        self.best_miou, self.best_step, self.stale = state

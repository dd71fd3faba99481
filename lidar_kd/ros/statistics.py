# SPDX-License-Identifier: Apache-2.0
"""What happened to the scans, for /diagnostics: rates, latencies, drops by reason, uncertainty."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
import threading

import numpy as np

WINDOW_S = 10.0
OK, WARN, ERROR = range(3)  # DiagnosticStatus's levels
_FEWEST_FOR_A_RATE = 5  # scans
_ODD_AGE_MS = 10_000.0  # no pipeline takes that long: the clocks differ


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One labelled scan."""

    latency_ms: float  # from the header's stamp until its labels are out
    total_ms: float  # from taking the scan until everything is out
    points: int
    unlabelled: int
    entropy: float  # mean over the labelled points, NaN without any


@dataclass(frozen=True, kw_only=True)
class RateSummary:
    """The last WINDOW_S seconds, and counts since the node was activated."""

    received: int
    answered: int
    skipped: int  # nobody listened
    dropped: Mapping[str, int]  # reason -> scans
    recent_drops: int
    input_hz: float
    output_hz: float
    latency_ms: tuple[float, float]  # p50, p95; NaN without answers
    total_ms: tuple[float, float]
    unlabelled_share: float
    entropy: float
    silent_s: float  # since the last scan that was not dropped
    unheard_s: float  # since any scan


class NodeStatistics:
    """Counted by the receiving and the working thread, read by a timer; times are monotonic."""

    def __init__(self, now_s: float) -> None:
        self._lock = threading.Lock()
        self._start_s = self._heard_s = self._on_time_s = now_s
        self._received: deque[float] = deque()
        self._drops: deque[float] = deque()
        self._answers: deque[tuple[float, Answer]] = deque()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def receive(self, now_s: float) -> None:
        with self._lock:
            self._counts['received'] += 1
            self._heard_s = now_s
            self._received.append(now_s)

    def drop(self, reason: str, now_s: float) -> None:
        with self._lock:
            self._dropped[reason] += 1
            self._drops.append(now_s)

    def skip(self, now_s: float) -> None:
        with self._lock:
            self._counts['skipped'] += 1
            self._on_time_s = now_s

    def answer(self, answer: Answer, now_s: float) -> None:
        with self._lock:
            self._counts['answered'] += 1
            self._on_time_s = now_s
            self._answers.append((now_s, answer))

    def summarise(self, now_s: float) -> RateSummary:
        with self._lock:
            self._forget(now_s - WINDOW_S)
            answers = [answer for _, answer in self._answers]
            span_s = max(min(WINDOW_S, now_s - self._start_s), 1e-3)
            points = sum(answer.points for answer in answers)
            return RateSummary(
                received=self._counts['received'],
                answered=self._counts['answered'],
                skipped=self._counts['skipped'],
                dropped=dict(self._dropped),
                recent_drops=len(self._drops),
                input_hz=len(self._received) / span_s,
                output_hz=len(answers) / span_s,
                latency_ms=_percentiles([answer.latency_ms for answer in answers]),
                total_ms=_percentiles([answer.total_ms for answer in answers]),
                unlabelled_share=sum(a.unlabelled for a in answers) / points if points else 0.0,
                entropy=_mean([answer.entropy for answer in answers]),
                silent_s=now_s - self._on_time_s,
                unheard_s=now_s - self._heard_s,
            )

    def find_rate_hz(self) -> float:
        """Of the scans that came lately; 0 where they are too few to tell."""
        with self._lock:
            times = self._received
            if len(times) < _FEWEST_FOR_A_RATE:
                return 0.0
            return (len(times) - 1) / max(times[-1] - times[0], 1e-9)

    def _forget(self, before_s: float) -> None:
        for times in (self._received, self._drops):
            while times and times[0] < before_s:
                times.popleft()
        while self._answers and self._answers[0][0] < before_s:
            self._answers.popleft()


def judge(
    summary: RateSummary, *, max_processing_time_ms: float, max_silence_ms: float
) -> tuple[int, str]:
    """The level of an active node and one sentence why."""
    if 1e3 * summary.silent_s > max_silence_ms:
        return ERROR, f'no scan labelled in time for {summary.silent_s:.1f} s'
    slow_ms = summary.total_ms[1]
    if slow_ms > max_processing_time_ms:
        return WARN, f'scans take {slow_ms:.0f} ms, more than {max_processing_time_ms:g} ms'
    if abs(summary.latency_ms[0]) > _ODD_AGE_MS:
        return WARN, (
            f'stamps are {summary.latency_ms[0] / 1e3:.1f} s old: synchronise the clock of the '
            'sensor, or set use_sim_time when a bag is played with --clock'
        )
    if summary.recent_drops:
        return WARN, f'{summary.recent_drops} scans dropped in the last {WINDOW_S:g} s'
    return OK, 'labelling' if summary.answered else 'ready'


def list_values(summary: RateSummary) -> dict[str, str]:
    """Key -> value as /diagnostics shows them."""
    values = {
        'input rate (Hz)': f'{summary.input_hz:.1f}',
        'output rate (Hz)': f'{summary.output_hz:.1f}',
        'latency p50 (ms)': f'{summary.latency_ms[0]:.1f}',
        'latency p95 (ms)': f'{summary.latency_ms[1]:.1f}',
        'processing p50 (ms)': f'{summary.total_ms[0]:.1f}',
        'processing p95 (ms)': f'{summary.total_ms[1]:.1f}',
        'received': str(summary.received),
        'labelled': str(summary.answered),
        'skipped, nobody listens': str(summary.skipped),
    }
    for reason in sorted({'age', 'queue', 'malformed', *summary.dropped}):
        values[f'dropped: {reason}'] = str(summary.dropped.get(reason, 0))
    values['unlabelled points (%)'] = f'{100 * summary.unlabelled_share:.2f}'
    values['mean entropy'] = f'{summary.entropy:.3f}'
    return values


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    low, high = np.percentile(values, (50, 95))
    return float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan

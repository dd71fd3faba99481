# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says, and one slot between two threads."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from lidar_kd.ros.log import BackOff
from lidar_kd.ros.mailbox import Mailbox, Worker
from lidar_kd.ros.statistics import Answer, ERROR, judge, list_values, NodeStatistics, OK, WARN

LIMITS: dict[str, Any] = {'max_processing_time_ms': 100.0, 'max_silence_ms': 1000.0}


def answer(latency_ms: float = 30.0, total_ms: float = 20.0, **rest: Any) -> Answer:
    told: dict[str, Any] = {'points': 100, 'unlabelled': 0, 'entropy': 0.5, **rest}
    return Answer(latency_ms=latency_ms, total_ms=total_ms, **told)


def test_rates_count_the_last_ten_seconds_and_totals_count_all() -> None:
    statistics = NodeStatistics(0.0)
    for tenth in range(200):  # 20 s at 10 Hz, every second one answered
        statistics.receive(tenth / 10)
        if tenth % 2:
            statistics.answer(answer(), tenth / 10)
    summary = statistics.summarise(20.0)
    assert (summary.received, summary.answered) == (200, 100)
    # what came at 10.0 s or later: 100 scans, 50 answers, in 10 s
    assert summary.input_hz == pytest.approx(10.0)
    assert summary.output_hz == pytest.approx(5.0)


def test_rates_of_a_young_node_are_not_thinned_by_the_window() -> None:
    statistics = NodeStatistics(0.0)
    for tenth in range(20):
        statistics.receive(tenth / 10)
    assert statistics.summarise(2.0).input_hz == pytest.approx(10.0)


def test_the_rate_of_scans_is_told_by_the_gaps_between_them_once_there_are_some() -> None:
    statistics = NodeStatistics(0.0)
    for number in range(4):  # the driver begins long after the node
        statistics.receive(7.0 + number / 20)
    assert statistics.find_rate_hz() == 0
    statistics.receive(7.2)
    assert statistics.find_rate_hz() == pytest.approx(20.0)


def test_latencies_are_percentiles_and_uncertainty_is_per_point() -> None:
    statistics = NodeStatistics(0.0)
    for ms in range(101):
        statistics.answer(answer(latency_ms=ms, unlabelled=10, entropy=0.25), 1.0)
    statistics.answer(answer(latency_ms=50, points=900, unlabelled=900, entropy=math.nan), 1.0)
    summary = statistics.summarise(1.0)
    assert summary.latency_ms[0] == 50
    assert summary.latency_ms[1] == pytest.approx(95, abs=0.5)
    # 101 * 10 + 900 of 101 * 100 + 900 points
    assert summary.unlabelled_share == pytest.approx(1910 / 11000)
    assert summary.entropy == 0.25


def test_drops_are_counted_by_reason_and_listed_even_when_none() -> None:
    statistics = NodeStatistics(0.0)
    for reason in ('queue', 'queue', 'transform'):
        statistics.drop(reason, 0.5)
    values = list_values(statistics.summarise(1.0))
    assert {key: value for key, value in values.items() if key.startswith('dropped')} == {
        'dropped: age': '0',
        'dropped: malformed': '0',
        'dropped: queue': '2',
        'dropped: transform': '1',
    }


@pytest.mark.parametrize(
    ('given', 'level', 'says'),
    [
        (answer(), OK, 'labelling'),
        (answer(total_ms=150), WARN, 'scans take 150 ms, more than 100 ms'),
        (answer(latency_ms=1e9), WARN, 'synchronise the clock'),
    ],
)
def test_a_slow_or_odd_scan_is_a_warning(given: Answer, level: int, says: str) -> None:
    statistics = NodeStatistics(0.0)
    statistics.answer(given, 1.0)
    found, sentence = judge(statistics.summarise(1.5), **LIMITS)
    assert (found, says in sentence) == (level, True), sentence


def test_no_scan_in_time_is_an_error_though_scans_come() -> None:
    statistics = NodeStatistics(0.0)
    for tenth in range(20):
        statistics.receive(tenth / 10)
        statistics.drop('age', tenth / 10)
    level, sentence = judge(statistics.summarise(2.0), **LIMITS)
    assert (level, sentence) == (ERROR, 'no scan labelled in time for 2.0 s')


def test_scans_that_nobody_wants_are_no_error() -> None:
    statistics = NodeStatistics(0.0)
    statistics.receive(5.0)
    statistics.skip(5.0)
    assert judge(statistics.summarise(5.1), **LIMITS) == (OK, 'ready')


def test_a_drop_is_a_warning_until_it_is_ten_seconds_old() -> None:
    statistics = NodeStatistics(0.0)
    statistics.drop('malformed', 1.0)
    for now_s in (10.9, 11.1):
        statistics.answer(answer(), now_s)
        level, _ = judge(statistics.summarise(now_s), **LIMITS)
        assert level == (WARN if now_s < 11 else OK)


def test_what_goes_on_is_told_ever_more_rarely_and_at_once_after_a_pause() -> None:
    quiet = BackOff()
    told = [second for second in range(100) if quiet.is_due('silence', float(second))]
    # 5 s after the first; then the gap doubles: 10, 20, 40 s
    assert told == [0, 5, 15, 35, 75]
    assert quiet.is_due('another', 99.0)
    assert not quiet.is_due('silence', 109.0)  # 10 s: it may only have flickered
    assert quiet.is_due('silence', 120.0)
    assert not quiet.is_due('silence', 124.0)
    assert quiet.is_due('silence', 125.0)


def test_the_mailbox_keeps_the_newest_and_hands_back_what_it_replaces() -> None:
    mailbox = Mailbox[str]()
    assert mailbox.put('old') is None
    assert mailbox.put('new') == 'old'
    assert mailbox.take() == 'new'


def test_a_closed_mailbox_gives_nothing_and_wakes_the_reader() -> None:
    mailbox = Mailbox[str]()
    taken: list[str | None] = []
    reader = threading.Thread(target=lambda: taken.append(mailbox.take()))
    reader.start()
    mailbox.close()
    reader.join(5)
    mailbox.put('too late')
    assert (taken, mailbox.take()) == ([None], None)


def test_a_busy_worker_handles_the_newest_of_what_came_meanwhile() -> None:
    done: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        begun.set()
        go_on.wait(5)
        done.append(item)

    worker = Worker(handle)
    worker.put(1)
    begun.wait(5)
    replaced = [worker.put(item) for item in (2, 3, 4)]
    assert replaced == [None, 2, 3]
    begun.clear()
    go_on.set()
    assert begun.wait(5)
    worker.stop()
    assert done == [1, 4]


def test_a_stopped_worker_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    workers: list[Worker[str]] = [Worker(lambda item: None) for _ in range(3)]
    for worker in workers:
        worker.stop()
    assert threading.active_count() == before

# SPDX-License-Identifier: Apache-2.0
"""Runs lidar-kd-bag again and again; each run is killed before its n-th touch of a file.

python test/killing.py SEED MOST WORLD IN OUT ...
n is drawn from 1..MOST for every process, from twice as many in the second round, and so on; WORLD
processes run at a time, as torchrun starts them. Ends when all of a round end by themselves, and
writes how each has ended, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
import random
import signal
import sys
from typing import Any

import rosbags.highlevel  # noqa: F401 (once, not in every process that is killed)

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.bag import main  # noqa: E402

TOUCHES = {
    'open',
    'os.mkdir',
    'os.remove',
    'os.rename',
    'os.rmdir',
    'os.scandir',
    'sqlite3.connect',
}


def arm(place: str, touches: int) -> None:
    left = touches

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in TOUCHES and place in str(arguments[0]):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def start(rank: int, world: int, touches: int, words: list[str]) -> int:
    child = os.fork()  # nothing has run in torch yet: there are no threads to lose
    if child:
        return child
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    arm(words[1], touches)
    os._exit(main(words))


def run_all(seed: int, most: int, world: int, words: list[str]) -> list[list[int]]:
    gc.freeze()  # what is imported, for all children
    rng = random.Random(seed)
    rounds: list[list[int]] = []
    while not rounds or any(rounds[-1]):
        longest = most * (len(rounds) + 1)  # the bag itself is written by one run in one go
        children = [start(rank, world, rng.randint(1, longest), words) for rank in range(world)]
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        rounds.append(ends)
    return rounds


if __name__ == '__main__':
    seed, most, world = (int(word) for word in sys.argv[1:4])
    rounds = run_all(seed, most, world, sys.argv[4:])
    sys.stderr.write(json.dumps(rounds))

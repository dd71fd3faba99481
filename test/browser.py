# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium that the tests drive through its DevTools, over a pair of pipes."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
import fcntl
import io
import itertools
import json
import os
from pathlib import Path
import select
import shutil
import subprocess
import tempfile
import time
from typing import Any

import numpy as np
from PIL import Image

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
LIMIT_S = 60.0
COMMAND = [
    *('--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--no-first-run'),
    *('--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--disable-dev-shm-usage'),
    *('--hide-scrollbars', '--mute-audio', '--disable-extensions', '--disable-sync'),
    *('--disable-background-networking', '--disable-component-update'),
]


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page: what it is told to do, and what it complains about."""

    def __init__(self, read_fd: int, write_fd: int, size: tuple[int, int]) -> None:
        self._read, self._write = read_fd, write_fd
        self._numbers = itertools.count(1)
        self._rest = b''
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Runtime', 'Log', 'Page', 'Network'):
            self.call(f'{domain}.enable')
        calm = {'name': 'prefers-reduced-motion', 'value': 'reduce'}  # every glide is a jump
        self.call('Emulation.setEmulatedMedia', features=[calm])
        self.resize(*size)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {'id': number, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == number:
                assert 'error' not in answer, f'{method}: {answer}'
                return answer['result']

    def _receive(self) -> dict[str, Any]:
        while b'\0' not in self._rest:
            ready, _, _ = select.select([self._read], [], [], LIMIT_S)
            assert ready, 'the browser does not answer'
            data = os.read(self._read, 1 << 20)
            assert data, 'the browser has ended'
            self._rest += data
        first, _, self._rest = self._rest.partition(b'\0')
        message: dict[str, Any] = json.loads(first)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get('method'), message.get('params', {})
        if method == 'Runtime.exceptionThrown':
            self.complaints.append(json.dumps(told['exceptionDetails']))
        elif method == 'Runtime.consoleAPICalled' and told['type'] in ('error', 'warning'):
            self.complaints.append(json.dumps(told['args']))
        elif method == 'Log.entryAdded' and told['entry']['level'] in ('error', 'warning'):
            self.complaints.append(told['entry']['text'])
        elif method == 'Network.requestWillBeSent':
            self.requests.append(told['request']['url'][:100])

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width, height=height, deviceScaleFactor=1, mobile=phone,
        )  # fmt: skip

    def open(self, path: Path, fragment: str = '') -> None:
        self.call('Page.navigate', url='about:blank')
        self.call('Page.navigate', url=f'{path.resolve().as_uri()}{fragment}')
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        done = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in done, done
        return done['result'].get('value')

    def text(self, selector: str) -> str:
        return str(self.evaluate(f'document.querySelector({json.dumps(selector)}).textContent'))

    def wait_for(self, expression: str) -> None:
        end_s = time.monotonic() + LIMIT_S
        while not self.evaluate(expression):
            assert time.monotonic() < end_s, f'never true: {expression}'
            time.sleep(0.05)

    def click(self, x: float, y: float, *, times: int = 1) -> None:
        place = {'x': x, 'y': y, 'button': 'left'}
        for count in range(1, times + 1):
            for kind in ('mousePressed', 'mouseReleased'):
                self.call('Input.dispatchMouseEvent', type=kind, clickCount=count, **place)

    def press(self, key: str) -> None:
        text = {'text': key} if len(key) == 1 else {}
        self.call('Input.dispatchKeyEvent', type='keyDown', key=key, **text)
        self.call('Input.dispatchKeyEvent', type='keyUp', key=key)

    def touch(self, kind: str, fingers: Sequence[tuple[float, float]]) -> None:
        points = [{'x': x, 'y': y, 'id': index} for index, (x, y) in enumerate(fingers)]
        self.call('Input.dispatchTouchEvent', type=kind, touchPoints=points)

    def screenshot(self) -> np.ndarray:
        """(height, width, 3), once nothing moves any more."""
        before = self._capture()
        end_s = time.monotonic() + LIMIT_S
        while True:
            after = self._capture()
            if np.array_equal(before, after):
                return after
            assert time.monotonic() < end_s, 'the picture never rests'
            before = after

    def _capture(self) -> np.ndarray:
        data = self.call('Page.captureScreenshot', format='png')['data']
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB'))


@contextmanager
def browsing(program: str, size: tuple[int, int] = (1280, 800)) -> Iterator[Tab]:
    """A browser with one tab, that ends with the block."""
    # it reads from 3 and writes to 4: both are put there in the child, so neither may be there
    (in_read, in_write), (out_read, out_write) = (map(_move_up, os.pipe()) for _ in range(2))

    def place() -> None:
        os.dup2(in_read, 3)
        os.dup2(out_write, 4)

    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [program, *COMMAND, f'--user-data-dir={folder}/profile', 'about:blank'],
            preexec_fn=place,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, 'HOME': folder},
        )
        os.close(in_read)
        os.close(out_write)
        try:
            yield Tab(out_read, in_write, size)
        finally:
            os.close(in_write)
            os.close(out_read)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _move_up(fd: int) -> int:
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved

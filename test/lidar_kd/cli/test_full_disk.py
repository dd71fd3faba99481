# SPDX-License-Identifier: Apache-2.0
"""A disk that is full says so, by the system's own words, and nothing half written stays."""

import errno
import os
from pathlib import Path
import resource

import numpy as np
import pytest

from lidar_kd.cli import segment


def test_a_disk_that_is_full_in_the_middle_is_told_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, out = tmp_path / 'scan.bin', tmp_path / 'out'
    np.arange(40, dtype='<f4').tofile(scan)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))  # as good as full after one label
    try:
        code = segment.main([str(scan), '-o', str(out), '--device', 'cpu'])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    reason = os.strerror(errno.EFBIG)
    assert f'.label: cannot be written ({reason}); free some' in capsys.readouterr().err
    assert list(out.iterdir()) == []

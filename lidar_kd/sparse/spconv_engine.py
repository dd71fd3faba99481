# SPDX-License-Identifier: Apache-2.0
from lidar_kd.sparse.torch_engine import TorchEngine


class SpconvEngine(TorchEngine):
    name = 'spconv'


def spconv_missing() -> str:
    return 'not yet'

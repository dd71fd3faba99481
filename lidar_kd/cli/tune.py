# SPDX-License-Identifier: Apache-2.0
"""The command that tunes the Triton engine; `python -m lidar_kd.cli.tune --help` explains it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
import sys

from lidar_kd.cli.lacking import explain_failed_imports

if __name__ == '__main__':
    explain_failed_imports()

import torch
from torch import nn

from lidar_kd.bundle import find_shipped_bundle, load_bundle
from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, LidarKdError
from lidar_kd.segmenter import TYPES
from lidar_kd.sparse import Conv
from lidar_kd.sparse.engines.triton.missing import triton_missing
from lidar_kd.sparse.engines.triton.tiles import capability_of, DeviceTiles, tiles_of
from lidar_kd.sparse.engines.triton.tuned import tuned_file, write_tuned
from lidar_kd.sparse.engines.triton.tuning import (
    GpuLayerTimer,
    KINDS,
    LayerTimer,
    tune_layer,
    TunedLayer,
)

_DESCRIPTION = """\
Look for faster tiles of the Triton engine on this GPU, for the layers of a bundle's network.

Takes some minutes: every size that is tried is compiled. What is clearly faster than the sizes
that ship is written to the cache, for this GPU and these versions of torch, Triton and the
package; every later start reads it. Remove the file to go back. Without a CUDA device or without
Triton nothing is done. Exit code 2: it could not.
"""


def parse_tune_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m lidar_kd.cli.tune', description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        'bundle', nargs='?', type=Path, help='whose network (default: the one that ships)'
    )
    parser.add_argument(
        '--precision', choices=TYPES, default='float16', help='number type (default float16)'
    )
    parser.add_argument('--training', action='store_true', help='the gradients of weights as well')
    return parser.parse_args()


def layers_to_tune(model: nn.Module, dtype: torch.dtype, *, trains: bool) -> list[TunedLayer]:
    """Of a network's convolutions, each shape once; trains: with the gradients of weights."""
    channels = {
        (layer.in_channels, layer.out_channels)
        for layer in model.modules()
        if isinstance(layer, Conv)
    }
    kinds = KINDS if trains else KINDS[:1]
    return [TunedLayer(kind, dtype, *pair) for pair in sorted(channels) for kind in kinds]


def tune_network(
    console: Console,
    model: nn.Module,
    tiles: DeviceTiles,
    make_timer: Callable[[], LayerTimer],
    *,
    dtype: torch.dtype,
    trains: bool,
    gpu: str,
) -> Path:
    """Writes what was found, and tells it."""
    layers, tuned, time_ms = layers_to_tune(model, dtype, trains=trains), {}, make_timer()
    with console.progress(len(layers), 'tuning') as advance:
        for layer in layers:
            sizes = tune_layer(tiles, layer, time_ms)
            if sizes != layer.sizes(tiles):
                tuned[layer.key] = sizes
            advance()
    path = tuned_file(gpu)
    write_tuned(path, gpu, tuned)
    console.line(f'{len(layers)} layers tried, {len(tuned)} have other tiles now: {path}')
    return path


def main() -> int:
    arguments, console = parse_tune_options(), Console()
    try:
        if not torch.cuda.is_available():
            raise ConfigError(
                'tune: torch sees no CUDA device here; run it on a machine with one.'
            )
        reason = triton_missing()
        if reason:
            raise ConfigError(f'tune: no Triton engine here: {reason}.')
        device = torch.device('cuda')
        tune_network(
            console, load_bundle(arguments.bundle or find_shipped_bundle()).model,
            tiles_of(capability_of(device)), GpuLayerTimer, dtype=TYPES[arguments.precision],
            trains=arguments.training, gpu=torch.cuda.get_device_name(device),
        )  # fmt: skip
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return 0


if __name__ == '__main__':
    sys.exit(main())

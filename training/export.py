# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle of a run's checkpoint: one file that the node, evaluate.py and others run.

  python training/export.py runs/baseline --out student.safetensors
  python training/export.py runs/baseline --checkpoint last --weights trained --half
  python training/export.py runs/baseline/best.pt --scan 000000.bin
  python training/export.py runs/tuned --average BEFORE.safetensors --share 0.6

The bundle is read back and must label a scan as the checkpoint's network does.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from pydantic import ValidationError
import torch
from torch import Tensor

from lidar_kd.bundle import Bundle, BundleSpec, load_bundle, save_bundle
from lidar_kd.cli.console import Console
from lidar_kd.cli.numbers import read_share
from lidar_kd.errors import BundleError, ConfigError, LidarKdError, prepare_folder
from lidar_kd.models import build_model
from lidar_kd.scans import read_scan
from lidar_kd.segmenter import Segmenter
from training.data.scan import Points
from training.data.synthetic import make_street, scan_street
from training.run.averaged import average_bundles
from training.run.checkpoint import load_checkpoint, State

WEIGHTS = {
    'scored': 'those that validation scored: the moving average where the run keeps one',
    'trained': 'those of the last optimizer step',
    'ema': 'their moving average',
}
ALIKE = 0.999  # least share of equal labels with --half; rounding turns what is nearly a tie


def main(argv: Sequence[str] | None = None) -> int:
    options, console = make_export_parser().parse_args(argv), Console()
    try:
        export(options, console)
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return 0


def make_export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('run', type=Path, metavar='RUN', help='the folder of a run, or one of its checkpoints')
    add(
        '--out',
        type=Path,
        metavar='FILE',
        help='default: exported_*.safetensors beside the checkpoint',
    )
    add('--checkpoint', choices=('best', 'last'), default='best', help='of a folder (%(default)s)')
    about = '; '.join(f'{name}: {what}' for name, what in WEIGHTS.items())
    add('--weights', choices=WEIGHTS, default='scored', help=f'{about} (%(default)s)')
    add(
        '--average',
        type=Path,
        metavar='FILE',
        help='mix in the weights of this bundle of the same network, which the run began from: '
        'what it knew is kept beside what is new',
    )
    add('--share', type=read_share, default=0.5, help='of the run in the average (%(default)s)')
    add('--half', action='store_true', help='store float16: half the size')
    add('--scan', type=Path, metavar='FILE', help='compare on this scan (a made-up street)')
    return parser


def export(options: argparse.Namespace, console: Console) -> Path:
    checkpoint = find_checkpoint(options.run, options.checkpoint)
    bundle = restore(checkpoint, options.weights)
    if options.average:
        bundle = average_bundles(bundle, load_bundle(options.average), options.share)
    points = read_scan(options.scan) if options.scan else scan_street(make_street(0), 0)[0]
    # the run's own bundle is what its report is about and what students may have learnt from
    out: Path = options.out or checkpoint.with_name(f'exported_{checkpoint.stem}.safetensors')
    prepare_folder(out.parent)
    dtype = torch.float16 if options.half else torch.float32
    save_bundle(out, bundle.model, bundle.spec, dtype=dtype)
    share = compare_labels(bundle, out, points)
    if share < (ALIKE if options.half else 1):
        remedy = 'export it without --half' if options.half else 'this is a defect: report it'
        raise BundleError(
            f'{out}: labels {share:.2%} of the points as {checkpoint} does; do not use it: '
            f'{remedy}.'
        )
    facts = {
        'checkpoint': checkpoint,
        'network': bundle.spec.model.name,
        'labels': f'{bundle.spec.labels.name}, {bundle.spec.labels.num_classes} classes',
        **bundle.spec.provenance,
        'compared': f'{share:.2%} of {len(points):,} points get the same label',
        'size': f'{out.stat().st_size / 1e6:.1f} MB',
    }
    console.banner(f'bundle {out}', facts)
    console.line(f'ros2 launch lidar_kd segment.launch.py model:={quote(str(out.resolve()))}')
    return out


def find_checkpoint(run: Path, name: str) -> Path:
    if run.is_file():
        return run
    path = run / f'{name}.pt'
    if path.is_file():
        return path
    found = ', '.join(sorted(each.name for each in run.glob('*.pt'))) or 'none'
    raise ConfigError(
        f'{path}: no such checkpoint (here: {found}); '
        'pass the folder of a run that train.py or distill.py wrote.'
    )


def restore(checkpoint: Path, weights: str = 'scored') -> Bundle:
    """The network of a checkpoint, in eval mode, with its description."""
    state = load_checkpoint(checkpoint)
    try:
        spec = BundleSpec.model_validate_json(state['spec'])
        chosen = _choose(state, weights, checkpoint)
        model = build_model(
            spec.model.name, classes=spec.labels.num_classes, **spec.model.settings
        )
        model.load_state_dict(chosen)
    except (KeyError, TypeError, ValidationError, RuntimeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise BundleError(
            f'{checkpoint}: no checkpoint of this lidar_kd ({type(error).__name__}: {reason}); '
            'pass one that its train.py wrote.'
        ) from None
    facts = {**spec.provenance, 'step': str(state.get('step', 'unknown')), 'weights': weights}
    return Bundle(model=model.eval(), spec=spec.model_copy(update={'provenance': facts}))


def _choose(state: State, weights: str, checkpoint: Path) -> Mapping[str, Tensor]:
    average: Mapping[str, Tensor] | None = state.get('ema')
    if weights == 'ema' and average is None:
        raise ConfigError(f'{checkpoint}: the run keeps no moving average; use --weights trained.')
    trained: Mapping[str, Tensor] = state['model']
    return trained if weights == 'trained' or average is None else average


def compare_labels(bundle: Bundle, written: Path, points: Points) -> float:
    """Share of the points that the file's network labels as the network in memory does."""
    exact = [Segmenter(each, device='cpu', precision='float32') for each in (bundle, written)]
    first, second = (segmenter.segment(points).labels for segmenter in exact)
    return float((first == second).mean())


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""A first look, on any machine: `make demo`.

Makes a few synthetic streets, trains a small network on them for two minutes, writes it as a
bundle, and segments a scan of a street it has never seen with the Segmenter that robots run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
import sys
import time

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lidar_kd.bundle import BundleSpec, ModelSpec, save_bundle
from lidar_kd.console import Console
from lidar_kd.errors import LidarKdError
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.picture import draw_comparison, save_picture
from lidar_kd.segmenter import Segmentation, Segmenter
from lidar_kd.voxels import CartesianGrid, voxelize
from training.synthetic import make_street, scan_street

NETWORK = 'minkunet_quarter'
GRID = CartesianGrid(voxel_m=0.2)
STREETS = 12
UNSEEN_STREET = 1000
PEAK_RATE = 5e-3
Scan = tuple[np.ndarray, np.ndarray]  # points (N, 4), train ids (N,)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--steps', type=int, default=700, help='training steps (default 700)')
    parser.add_argument('--out', type=Path, default=Path('runs/demo'), help='output folder')
    return parser.parse_args()


def turned(scan: Scan, rng: np.random.Generator) -> Scan:
    """The scan about the vertical axis by any angle: the only augmentation here."""
    points, labels = scan
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned_points = points.copy()
    turned_points[:, :2] = points[:, :2] @ turn.T
    return turned_points, labels


def train(scans: list[Scan], steps: int, advance: Callable[[], None]) -> torch.nn.Module:
    """Cross-entropy with rare classes weighted up, AdamW with one cycle; one scan a step."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision('high')
    counts = np.bincount(np.concatenate([labels for _, labels in scans]), minlength=256)
    shares = counts[: SEMANTICKITTI.num_classes] / counts.sum()
    weights = torch.from_numpy(1 / np.sqrt(shares + 1e-2)).float()
    rng = np.random.default_rng(0)
    model = build_model(NETWORK, classes=SEMANTICKITTI.num_classes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for step in range(steps):
        points, labels = turned(scans[step % len(scans)], rng)
        voxels = voxelize(torch.from_numpy(points), GRID)
        target = torch.full((len(voxels.level),), IGNORE)
        target[voxels.point_voxel] = torch.from_numpy(labels).long()[voxels.rows]
        logits = model(voxels).voxel_logits  # by voxel, so that what is far away counts too
        loss = cross_entropy(logits, target, weights, ignore_index=IGNORE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        advance()
    return model.eval()


def mean_iou(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Over the classes that occur in the truth."""
    scores = []
    for label in np.unique(truth[truth != IGNORE]):
        hit = ((truth == label) & (prediction == label)).sum()
        scores.append(hit / ((truth == label) | (prediction == label)).sum())
    return float(np.mean(scores))


def report(console: Console, truth: np.ndarray, result: Segmentation) -> None:
    correct = float((truth == result.labels).mean())
    rows: list[list[object]] = [
        ['points', len(truth)],
        ['points labelled right', f'{correct:.1%}'],
        ['mIoU (classes that occur)', f'{mean_iou(truth, result.labels):.1%}'],
    ]
    rows += [[f'{stage} ms', f'{ms:.1f}'] for stage, ms in result.timing.items()]
    rows.append(['points to labels ms', f'{sum(result.timing.values()):.1f}'])
    console.table('a street it has never seen', ['', 'value'], rows)


def run(console: Console, steps: int, out: Path) -> None:
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with console.progress(STREETS, 'making streets') as advance:
        scans = []
        for seed in range(STREETS):
            scans.append(scan_street(make_street(seed), seed))
            advance()
    with console.progress(steps, 'training', unit='steps') as advance:
        model = train(scans, steps, advance)
    spec = BundleSpec(
        model=ModelSpec(name=NETWORK),
        grid=GRID,
        labels=SEMANTICKITTI,
        provenance={'data': f'{STREETS} synthetic streets', 'steps': str(steps)},
    )
    bundle = out / 'demo.safetensors'
    save_bundle(bundle, model, spec)
    points, truth = scan_street(make_street(UNSEEN_STREET), UNSEEN_STREET)
    np.save(out / 'street.npy', points)
    segmenter = Segmenter(bundle)
    segmenter.warm_up()
    result = segmenter.segment(points)
    report(console, truth, result)
    picture = draw_comparison(points, truth, result.labels, SEMANTICKITTI, title='make demo')
    save_picture(out / 'demo.png', picture)
    console.line(f'engine {segmenter.engine.name}, {segmenter.dtype}, {segmenter.device}')
    console.line(f'picture {out / "demo.png"}   bundle {bundle}')
    console.line(f'done in {time.perf_counter() - start:.0f} s. Next, your own scans:')
    console.line(f'  .venv/bin/lidar-kd-segment SCAN_OR_FOLDER --bundle {bundle} --picture')


def main() -> int:
    arguments, console = parse(), Console()
    try:
        run(console, arguments.steps, arguments.out)
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return 0


if __name__ == '__main__':
    sys.exit(main())

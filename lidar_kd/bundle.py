# SPDX-License-Identifier: Apache-2.0
"""A bundle: one safetensors file with the weights and all that is needed to run them.

Its metadata hold one JSON document, the BundleSpec; nothing in it is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
import hashlib
from importlib import resources
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveFloat, ValidationError
from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
import torch
from torch import nn, Tensor

from lidar_kd.errors import BundleError, ConfigError, write_atomically
from lidar_kd.labels import ClassTable, NO_CLASSES
from lidar_kd.models import build_model
from lidar_kd.voxels import Grid

FORMAT_VERSION = 2  # 1 had no `sensor`
COLUMNS = 4  # of a point that a network sees
_KEY = 'lidar_kd'  # of our document among the file's metadata
_NOT_STORED = 'num_batches_tracked'  # counts training steps; means nothing to a frozen network
_SHOWN = 3  # tensors named in an error
MOST_HEADER = 8 << 20  # bytes that describe a file's tensors: 1,000 take 0.1 MB
MOST_SPEC = 1 << 20  # characters of the document


class _StrictSettings(BaseModel):
    model_config = ConfigDict(strict=True, extra='forbid', frozen=True, allow_inf_nan=False)


class ModelSpec(_StrictSettings):
    """What `lidar_kd.models.build_model` is called with; the label table gives the classes."""

    name: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)


class IntensitySpec(_StrictSettings):
    """`scale` times the intensity of a scan as stored gives what the network was trained on."""

    scale: PositiveFloat = 1.0
    source: str = ''  # for people: where the convention comes from, 'KITTI, 0-1'


class SensorSpec(_StrictSettings):
    """How the scans were taken that the network learnt from; None: unknown, or in many ways."""

    height_m: PositiveFloat | None = None  # of an upright, level sensor above the ground
    ground_intensity: PositiveFloat | None = None  # median near the sensor, after `scale`


# Bundles from before the format told it, by their data. KITTI's student knows one sensor, and its
# intensities are left alone.
KNOWN_SENSORS = {
    'streets': SensorSpec(height_m=1.73, ground_intensity=0.3),
    'semantickitti': SensorSpec(height_m=1.73),
    'nuscenes': SensorSpec(height_m=1.84),
}


class BundleSpec(_StrictSettings):
    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    model: ModelSpec
    grid: Grid
    intensity: IntensitySpec = Field(default_factory=IntensitySpec)
    sensor: SensorSpec | None = None
    labels: ClassTable
    provenance: dict[str, str] = Field(default_factory=dict)  # data, teacher, date, scores, ...

    def run_or(self, name: str) -> str:
        """The run that made it, if one did: the files of all runs are called alike."""
        return self.provenance.get('run', name)

    def trained_on(self) -> SensorSpec:
        """The sensor it knows; what older bundles do not tell follows from their data."""
        return self.sensor or KNOWN_SENSORS.get(self.intensity.source, SensorSpec())


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A network in eval mode on the CPU in float32, and its description."""

    model: nn.Module
    spec: BundleSpec
    path: Path | None = None  # None: never written
    sha256: str = ''  # digest_of the file

    @property
    def name(self) -> str:
        return self.path.stem if self.path else self.spec.model.name

    def require_answers(self) -> None:
        """An encoder without a head can teach, but not label."""
        if self.spec.labels == NO_CLASSES:
            raise BundleError(
                f'{self.path or self.name}: the network has no head and labels nothing; it is a '
                'teacher by its features: name it as teacher.bundle, or choose another.'
            )

    def require_columns(self) -> None:
        """An imported network may want more of a point, as its colour or its time."""
        wanted = self.spec.model.settings.get('in_channels', COLUMNS)
        if wanted != COLUMNS:
            raise BundleError(
                f'{self.path or self.name}: the network takes {wanted} columns, and points have '
                f'{COLUMNS}: x, y, z and intensity; import or train one that takes those.'
            )


def save_bundle(
    path: str | Path, model: nn.Module, spec: BundleSpec, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write complete or not at all; `dtype` float16 halves the file."""
    path = Path(path)
    tensors = {
        name: _pack(tensor, dtype)
        for name, tensor in model.state_dict().items()
        if not name.endswith(_NOT_STORED)
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _check_names(shapes, _outline(spec, path), spec, path)
    _check_finite(tensors, spec, path)
    metadata = {_KEY: spec.model_dump_json(), 'format': 'pt'}
    try:
        with write_atomically(path) as temporary:
            save_file(tensors, temporary, metadata)
            temporary.chmod(0o644)  # it comes out for its writer alone; a robot has other users
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f'{path}: cannot be written ({_reason(error)}); choose a writable folder.'
        ) from None


def load_bundle(path: str | Path) -> Bundle:
    path = Path(path)
    with _open(path) as file:
        spec = _parse_spec(file.metadata(), path)
        model = _outline(spec, path)
        # before anything is read: a file may announce more than fits into memory
        names = [name for name in file.keys() if not name.endswith(_NOT_STORED)]  # noqa: SIM118
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        _check_names(shapes, model, spec, path)
        tensors = {name: file.get_tensor(name) for name in names}
    _check_finite(tensors, spec, path)
    _fill(model, tensors)
    return Bundle(model=model.eval(), spec=spec, path=path, sha256=digest_of(path))


def digest_of(path: Path) -> str:
    """The first 12 digits, to tell two files apart."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()[:12]


def read_spec(path: str | Path) -> BundleSpec:
    """The description alone, without the weights."""
    with _open(Path(path)) as file:
        return _parse_spec(file.metadata(), Path(path))


def find_shipped_bundle() -> Path:
    """The best bundle that is installed with the package: the largest."""
    return list_shipped_bundles()[0]


def list_shipped_bundles() -> list[Path]:
    """The bundles that are installed with the package, the largest first."""
    weights = Path(str(resources.files('lidar_kd') / 'weights'))
    found = sorted(weights.glob('*.safetensors'), key=lambda path: (-path.stat().st_size, path))
    if found:
        return found
    raise BundleError(f'{weights}: no bundle came with this installation; pass one: --bundle.')


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if path.is_dir():
        raise BundleError(f'{path}: a folder, not a bundle; pass the .safetensors file in it.')
    if not path.exists():
        raise BundleError(f'{path}: no such bundle; check the path.')
    try:
        _check_header(path)
        with safe_open(path, framework='pt') as file:
            yield file
    except (OSError, SafetensorError, RuntimeError) as error:  # the last: no room to map it
        raise BundleError(
            f'{path}: not a complete safetensors file ({_reason(error)}); copy it again.'
        ) from None


def _check_header(path: Path) -> None:
    with path.open('rb') as file:
        size = int.from_bytes(file.read(8), 'little')
    if size > MOST_HEADER:
        raise BundleError(
            f'{path}: not a complete safetensors file (it announces {size:,} bytes about its '
            f'tensors, at most {MOST_HEADER:,}); copy it again.'
        )


def _parse_spec(metadata: Mapping[str, str] | None, path: Path) -> BundleSpec:
    document = (metadata or {}).get(_KEY)
    if document is None:
        raise BundleError(
            f'{path}: a safetensors file, but not written by lidar_kd; '
            'export it with training/export.py.'
        )
    if len(document) > MOST_SPEC:
        raise BundleError(
            f'{path}: a bundle description of {len(document):,} characters (at most '
            f'{MOST_SPEC:,}); export it again.'
        )
    try:
        _check_version(json.loads(document), path)
        return BundleSpec.model_validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        detail = f'{".".join(map(str, first["loc"]))}: {first["msg"]}'
    except (json.JSONDecodeError, RecursionError) as error:
        detail = str(error)
    raise BundleError(f'{path}: damaged bundle description ({detail}); export it again.')


def _check_version(document: Any, path: Path) -> None:
    version = document.get('format_version') if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f'{path}: was written by a newer lidar_kd (format {version}; '
            f'this one reads up to {FORMAT_VERSION}); update lidar_kd.'
        )


def _outline(spec: BundleSpec, path: Path) -> nn.Module:
    """The network without memory: what a damaged description asks for may not fit into any. And
    random weights would be drawn from the run that saves it.
    """
    settings: dict[str, Any] = {'classes': spec.labels.num_classes, **spec.model.settings}
    if settings['classes'] != spec.labels.num_classes:
        raise BundleError(
            f'{path}: the network has {settings["classes"]} classes, its label table '
            f"'{spec.labels.name}' {spec.labels.num_classes}; export it with its own table."
        )
    try:
        with torch.device('meta'):
            return build_model(spec.model.name, **settings)
    except ConfigError as error:
        sentence = str(error).rstrip('.')
        raise BundleError(f'{path}: {sentence}; was it made by a newer lidar_kd?') from None


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies: what a file lends would change with it."""
    state = {
        name: torch.zeros(outline.shape, dtype=outline.dtype)
        if name.endswith(_NOT_STORED)
        else tensors[name].to(outline.dtype, copy=True)
        for name, outline in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)


def _pack(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    wanted = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to('cpu', wanted, copy=True).contiguous()


def _check_names(
    shapes: Mapping[str, tuple[int, ...]], model: nn.Module, spec: BundleSpec, path: Path
) -> None:
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith(_NOT_STORED)
    }
    problems = {
        'missing': sorted(expected.keys() - shapes.keys()),
        'unexpected': sorted(shapes.keys() - expected.keys()),
        'of another shape': [
            f'{name} {shapes[name]} instead of {expected[name]}'
            for name in sorted(expected.keys() & shapes.keys())
            if shapes[name] != expected[name]
        ],
    }
    _refuse_weights(problems, spec, path)


def _check_finite(tensors: Mapping[str, Tensor], spec: BundleSpec, path: Path) -> None:
    wrong = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    _refuse_weights({'not finite': wrong}, spec, path)


def _refuse_weights(problems: Mapping[str, list[str]], spec: BundleSpec, path: Path) -> None:
    if any(problems.values()):
        detail = '; '.join(f'{len(n)} {kind}: {_list(n)}' for kind, n in problems.items() if n)
        raise BundleError(
            f"{path}: the weights do not fit the network '{spec.model.name}' with "
            f'{spec.labels.num_classes} classes ({detail}); export them again with their settings.'
        )


def _list(names: list[str]) -> str:
    return ', '.join(names[:_SHOWN]) + ', ...' * (len(names) > _SHOWN)


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)

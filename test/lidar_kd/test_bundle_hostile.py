# SPDX-License-Identifier: Apache-2.0
"""A bundle may announce anything: it is refused before anything is built, or read for long."""

from collections.abc import Callable
import json
from pathlib import Path
import struct
from typing import Any

import pytest

from lidar_kd.bundle import BundleSpec, load_bundle, ModelSpec, read_spec
from lidar_kd.errors import BundleError
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.models import MODELS
from lidar_kd.voxels import CartesianGrid

SPEC = BundleSpec(
    model=ModelSpec(name='minkunet', settings={'width': 0.125}),
    grid=CartesianGrid(voxel_m=0.1),
    labels=SEMANTICKITTI,
)
Document = dict[str, Any]


def write(
    path: Path,
    change: Callable[[Document], object] = lambda _: None,
    tensors: Document | None = None,
    size: int = 0,
) -> Path:
    """A file of that header, and as much of nothing behind it: it takes no room on a disk."""
    document = json.loads(SPEC.model_dump_json())
    change(document)
    header = json.dumps({'__metadata__': {'lidar_kd': json.dumps(document)}, **(tensors or {})})
    content = header.encode()
    with path.open('wb') as file:
        file.write(struct.pack('<Q', len(content)) + content)
        file.truncate(8 + len(content) + size)
    return path


def refuse(path: Path, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence) as caught:
        load_bundle(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


@pytest.fixture
def _built_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**_: object) -> None:
        pytest.fail('it was built')

    monkeypatch.setitem(MODELS, 'minkunet', build)


@pytest.mark.usefixtures('_built_not_at_all')
@pytest.mark.parametrize('key', ['channels', 'layers'])
def test_two_thousand_stages_are_refused_before_a_layer_is_built(tmp_path: Path, key: str) -> None:
    stages = [1] * 2000
    path = write(tmp_path / 'a', lambda d: d['model']['settings'].update({key: stages}))
    refuse(path, f'{key} has 2,000 entries: at most 32 are possible')


@pytest.mark.parametrize(
    ('name', 'settings', 'sentence'),
    [
        ('spunet', {'layers': [200_000] * 8}, 'layers must be 100 or fewer'),
        ('spunet', {'channels': [8] * 20_000}, 'channels has 20,000 entries'),
        ('ptv3_quarter', {'enc_depths': [200_000] * 5}, 'settings make no network'),
    ],
)
def test_hundreds_of_thousands_of_layers_are_refused(
    tmp_path: Path, name: str, settings: Document, sentence: str
) -> None:
    path = write(tmp_path / 'a', lambda d: d['model'].update(name=name, settings=settings))
    refuse(path, sentence)


def test_tensors_by_the_hundred_thousand_are_refused_by_the_size_of_their_header(
    tmp_path: Path,
) -> None:
    empty = {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]}
    path = write(tmp_path / 'a', tensors={f'tensor{n}': empty for n in range(150_000)})
    refuse(path, 'bytes about its tensors, at most 8,388,608')


def test_a_header_that_is_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'a').write_bytes(struct.pack('<Q', 2**63) + b'{}')
    refuse(tmp_path / 'a', 'not a complete safetensors file')


def test_eight_gigabytes_of_another_shape_are_refused_unread(tmp_path: Path) -> None:
    count = 2 << 30
    huge = {'dtype': 'F32', 'shape': [count], 'data_offsets': [0, 4 * count]}
    path = write(tmp_path / 'a', tensors={'head.bias': huge}, size=4 * count)
    before = read_peak_kb()
    refuse(path, r'head\.bias \(2147483648,\) instead of \(19,\)')
    assert read_peak_kb() - before < 1_000_000


def read_peak_kb() -> int:
    """The most memory that this process ever held."""
    status = Path('/proc/self/status').read_text()
    return int(status.partition('VmHWM:')[2].split()[0])


def test_a_tensor_of_more_dimensions_than_torch_can_print_is_refused(tmp_path: Path) -> None:
    deep = {'dtype': 'F32', 'shape': [1] * 70, 'data_offsets': [0, 4]}
    refuse(write(tmp_path / 'a', tensors={'head.bias': deep}, size=4), 'head.bias')


def test_a_description_of_megabytes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / 'a', lambda d: d['provenance'].update(data='x' * (1 << 20)))
    refuse(path, r'a bundle description of [\d,]+ characters \(at most 1,048,576\)')


NAMES = {
    'long': 'x' * 100_000,
    'title': '\x1b]0;hostile\x07\x1b[31m',
    'empty': '',
    'two lines': 'two\nlines',
}


@pytest.mark.parametrize('kind', NAMES)
def test_class_names_that_no_terminal_can_show_are_refused(tmp_path: Path, kind: str) -> None:
    def rename(document: Document) -> None:
        document['labels']['names'][0] = NAMES[kind]

    refuse(write(tmp_path / 'a', rename), 'labels')


@pytest.mark.parametrize('number', ['1e999', '-1', '[]', '9' * 400, 'null'])
@pytest.mark.parametrize('place', ['voxel_m', 'scale', 'format_version'])
def test_odd_numbers_are_refused(tmp_path: Path, number: str, place: str) -> None:
    marked = {
        'voxel_m': lambda d: d['grid'].update(voxel_m='?'),
        'scale': lambda d: d['intensity'].update(scale='?'),
        'format_version': lambda d: d.update(format_version='?'),
    }[place]
    path = write(tmp_path / 'a', marked)
    content = path.read_bytes()[8:].replace(b'\\"?\\"', number.encode())
    path.write_bytes(struct.pack('<Q', len(content)) + content)
    with pytest.raises(BundleError):
        read_spec(path)


def test_the_header_of_this_file_is_what_a_bundle_has(tmp_path: Path) -> None:
    """Else all of the above might be refused for another reason."""
    assert read_spec(write(tmp_path / 'a')) == SPEC
    refuse(write(tmp_path / 'a'), 'missing')

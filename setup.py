# SPDX-License-Identifier: Apache-2.0
"""Installs lidar_kd with pip or colcon; the version is package.xml's."""

from pathlib import Path
import sys
from xml.etree import ElementTree

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent
NATIVE = 'lidar_kd/sparse/engines/native'
sys.path.insert(0, str(ROOT / NATIVE))  # a PEP 517 build does not put the checkout there
from build_kernels import BuildKernels  # noqa: E402

NAME = 'lidar_kd'
PAGE = ['cli/page/*.html', 'cli/page/*.css', 'cli/page/*.js']
TILES = 'sparse/engines/triton/tiles.json'
HAS_SPCONV = 'platform_machine == "x86_64" and python_version < "3.12"'
HAS_ROS_WHEELS = 'platform_machine == "x86_64" and sys_platform == "linux"'


def files_below(folder: str, target: str) -> list[tuple[str, list[str]]]:
    """data_files for a folder and its subfolders, keeping their structure."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob('*')):
        if path.is_file() and '__pycache__' not in path.parts:
            place = Path(target, path.parent.relative_to(folder))
            found.setdefault(place.as_posix(), []).append(path.as_posix())
    return list(found.items())


setup(
    name=NAME,
    version=ElementTree.parse(ROOT / 'package.xml').findtext('version'),
    description='Semantic segmentation of LiDAR scans by distilled sparse networks, live in ROS 2',
    author='The lidar_kd authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={NAME: ['py.typed', 'weights/*.safetensors', TILES, *PAGE]},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        *files_below('launch', f'share/{NAME}/launch'),
        *files_below('config/node', f'share/{NAME}/config/node'),
        *files_below('scripts', f'lib/{NAME}'),  # where `ros2 run` looks for executables
    ],
    ext_modules=[
        Extension(
            f'{NATIVE.replace("/", ".")}._kernels',
            sources=sorted(path.as_posix() for path in Path(NATIVE).glob('*.c')),
        )
    ],
    cmdclass={'build_ext': BuildKernels},
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'lidar-kd-bag = lidar_kd.cli.start:start_bag',
            'lidar-kd-segment = lidar_kd.cli.start:start_segment',
        ]
    },
    # Why each is needed and which version is tested: constraints.txt.
    install_requires=[
        'numpy',
        'pillow>=10.1',
        'pydantic>=2.5',
        'pyyaml',
        'rich>=12.2',
        'safetensors',
        'torch',
    ],
    extras_require={
        'train': ['matplotlib', 'open3d', 'rosbags'],
        'bags': ['rosbags'],  # on the robot: replay of recordings
        'test': [
            'colcon-common-extensions',
            'hypothesis',
            'mypy',
            'pytest<8.4',  # newer ones break the ROS launch_testing plugins
            'pytest-xdist',  # every core takes a part of the tests
            'ruff',
            'setuptools<80',  # newer ones break `colcon build --symlink-install`
            'spconv; platform_machine == "x86_64"',  # the peer of the benchmarks
            'types-PyYAML',
            'types-setuptools<80',
        ],
        'docs': ['mkdocs-material'],
        'cuda': [f'spconv-cu120; {HAS_SPCONV}', f'numpy<2; {HAS_SPCONV}'],  # constraints-cuda.txt
        'ros': [  # for machines without a ROS distribution; a Jetson has its own from apt
            f'ros-rclpy[fastrtps]; {HAS_ROS_WHEELS}',
            *(
                f'ros-{package}; {HAS_ROS_WHEELS}'
                for package in (
                    'diagnostic-msgs',
                    'lifecycle-msgs',
                    'nav-msgs',
                    'rcl-interfaces',
                    'sensor-msgs',
                    'std-msgs',
                    'visualization-msgs',
                )
            ),
        ],
    },
)

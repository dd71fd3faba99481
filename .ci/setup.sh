#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prepares .venv in the checkout for `make test`, `make demo` and `make bench`.
# PYTHON names the interpreter to take; else the first one below that is new enough.
# Where pip's index serves torch for CUDA (2 GB and more) and the CPU build will do, let
# PIP_EXTRA_INDEX_URL name PyTorch's index of CPU builds.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly VENV=.venv

# Install Debian packages where this user may, else print the line that does and stop.
system_packages() {
    local sudo=''
    if [ "$(id -u)" != 0 ]; then sudo='sudo -n'; fi
    if command -v apt-get > /dev/null && $sudo true 2> /dev/null; then
        $sudo apt-get update -qq || true
        if $sudo env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends "$@"; then
            return
        fi
    fi
    echo "lidar_kd: system packages are missing; run: sudo apt-get install $*" >&2
    exit 1
}

# pyenv and others leave names on PATH that do not run, so a candidate has to prove itself.
find_python() {
    local candidates=${PYTHON:-python3 python3.12 python3.11 python3.10 python3.13} candidate
    for candidate in $candidates; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "lidar_kd: no Python >= 3.10 among: $candidates; name one by make PYTHON=..." >&2
    exit 1
}

create_venv() {
    local python
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
        system_packages python3-venv
    fi
    "$python" -m venv "$VENV"
}

"$VENV/bin/python" -m pip --version > /dev/null 2>&1 || create_venv
pip_install=("$VENV/bin/python" -m pip install --disable-pip-version-check -c constraints.txt)
"${pip_install[@]}" setuptools wheel
"${pip_install[@]}" --no-build-isolation -e ".[train,test]"

# A sourced ROS distribution stays what it is. Where PyPI has no ROS for this machine the tests of
# the node skip, and `make demo` says what to do.
has_ros() { "$VENV/bin/python" -c 'import rclpy, sensor_msgs, diagnostic_msgs' > /dev/null 2>&1; }
if ! has_ros; then
    "${pip_install[@]}" --no-build-isolation -e '.[ros]' || true
    has_ros || echo 'lidar_kd: PyPI has no ROS 2 for this machine; source a distribution' >&2
fi

# pip hides why the native kernel was not built; building it once more tells.
if ! compgen -G 'lidar_kd/sparse/engines/native/_kernels*.so' > /dev/null; then
    "$VENV/bin/python" setup.py -q build_ext --inplace
fi
if ! "$VENV/bin/python" -c 'import open3d' > /dev/null 2>&1; then
    system_packages libusb-1.0-0 libgl1 libegl1 libgomp1 libx11-6
fi

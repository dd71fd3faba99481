# SPDX-License-Identifier: Apache-2.0
# The node on a Jetson with JetPack 7 (Thor): L4T 38, Ubuntu 24.04, Python 3.12, CUDA 13, ROS 2
# Jazzy. Not built yet. There is no l4t-jetpack image of L4T 38 that we know of: CUDA's own for
# aarch64 takes its place. At the top of a checkout:
#   docker build -f docs/jetson/jetpack7.Dockerfile -t lidar_kd .
#   docker run --rm --runtime nvidia --network host --ipc host lidar_kd points:=/ouster/points
ARG L4T=nvcr.io/nvidia/cuda:13.0.0-runtime-ubuntu24.04
FROM ros:jazzy-ros-base AS ros
FROM $L4T

ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
# Where ROS comes from and its key: as the official image has them.
COPY --from=ros /etc/apt/sources.list.d/ /etc/apt/sources.list.d/
COPY --from=ros /usr/share/keyrings/ /usr/share/keyrings/
RUN apt-get update && apt-get install -y --no-install-recommends \
        gcc libgomp1 python3-dev python3-pip python3-venv \
        ros-jazzy-ros-base ros-jazzy-tf2-ros-py \
    && rm -rf /var/lib/apt/lists/*

# The environment sees the distribution's rclpy. torch for CUDA 13 brings the Triton it was made
# with; gcc and Python.h stay, for Triton wants them on the robot.
ENV VIRTUAL_ENV=/opt/lidar_kd
RUN python3 -m venv --system-site-packages $VIRTUAL_ENV
ENV PATH=$VIRTUAL_ENV/bin:$PATH
WORKDIR /src
COPY . .
RUN sed -i '/^numpy==/d' constraints.txt \
    && pip install --no-cache-dir --index-url $TORCH_INDEX "$(grep '^torch==' constraints.txt)" \
    && pip install --no-cache-dir -c constraints.txt 'numpy<2' setuptools wheel \
    && pip install --no-cache-dir --no-build-isolation -c constraints.txt .

RUN useradd --create-home --groups video robot
USER robot
WORKDIR /home/robot
STOPSIGNAL SIGINT
ENV AMENT_PREFIX_PATH=$VIRTUAL_ENV
ENTRYPOINT ["/bin/bash", "-c", ". /opt/ros/jazzy/setup.bash && exec ros2 launch lidar_kd segment.launch.py \"$@\"", "segment"]
CMD ["--show-args"]

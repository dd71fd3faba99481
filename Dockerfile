# SPDX-License-Identifier: Apache-2.0
# The node on ROS 2 Jazzy:
#   docker build -t lidar_kd .
#   docker run --rm --network host --ipc host lidar_kd points:=/velodyne_points
# For CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 ...,
# then docker run --gpus all ...; --ipc host shares memory with the driver's process.
# The image of 2026-09-25, as others name it; not built here yet. A newer one's digest is told by
#   docker buildx imagetools inspect ros:jazzy-ros-base
FROM ros:jazzy-ros-base@sha256:c3706ef0a0aa45413c07803cf433602f543b22e45b4855f6fca955c2d8ecc4e8

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install -y --no-install-recommends \
        gcc libgomp1 python3-dev python3-venv ros-jazzy-tf2-ros-py \
    && rm -rf /var/lib/apt/lists/*

# The environment sees the distribution's rclpy; everything else comes from constraints.txt.
ENV VIRTUAL_ENV=/opt/lidar_kd
RUN python3 -m venv --system-site-packages $VIRTUAL_ENV
ENV PATH=$VIRTUAL_ENV/bin:$PATH
WORKDIR /src
COPY constraints.txt .
# numpy stays the distribution's, which its messages were compiled for.
RUN sed -i '/^numpy==/d' constraints.txt \
    && pip install --no-cache-dir --index-url $TORCH_INDEX "$(grep '^torch==' constraints.txt)" \
    && pip install --no-cache-dir -c constraints.txt setuptools wheel \
    && cp constraints.txt versions.txt
COPY . .
RUN pip install --no-cache-dir --no-build-isolation -c versions.txt .

# Nothing of it needs root; the log of ROS lies in the user's home. The name is fixed, not the
# number: --user works, too.
RUN useradd --create-home robot
USER robot
WORKDIR /home/robot

# As PID 1 launch ignores SIGTERM.
STOPSIGNAL SIGINT

# `ros2 launch` finds what pip installed through the ament index.
ENV AMENT_PREFIX_PATH=$VIRTUAL_ENV
ENTRYPOINT ["/ros_entrypoint.sh", "ros2", "launch", "lidar_kd", "segment.launch.py"]
CMD ["--show-args"]

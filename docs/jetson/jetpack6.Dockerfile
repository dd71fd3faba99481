# SPDX-License-Identifier: Apache-2.0
# The node on a Jetson with JetPack 6 (Orin): L4T 36, Ubuntu 22.04, Python 3.10, CUDA 12.6, ROS 2
# Humble. Not built yet. At the top of a checkout, with NVIDIA's torch wheel for this JetPack in it:
#   docker build -f docs/jetson/jetpack6.Dockerfile --build-arg TORCH_WHEEL=torch-....whl -t lidar_kd .
#   docker run --rm --runtime nvidia --network host --ipc host lidar_kd points:=/ouster/points
ARG L4T=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ros:humble-ros-base AS ros
FROM $L4T

ARG TORCH_WHEEL
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
# Where ROS comes from and its key: as the official image has them.
COPY --from=ros /etc/apt/sources.list.d/ /etc/apt/sources.list.d/
COPY --from=ros /usr/share/keyrings/ /usr/share/keyrings/
RUN apt-get update && apt-get install -y --no-install-recommends \
        gcc libgomp1 libopenblas0 python3-dev python3-pip python3-venv \
        ros-humble-ros-base ros-humble-tf2-ros-py \
    && rm -rf /var/lib/apt/lists/*

# The environment sees the distribution's rclpy. numpy 1: its messages and NVIDIA's wheel were
# compiled for it. gcc and Python.h stay: Triton wants them on the robot.
ENV VIRTUAL_ENV=/opt/lidar_kd
RUN python3 -m venv --system-site-packages $VIRTUAL_ENV
ENV PATH=$VIRTUAL_ENV/bin:$PATH
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir "$TORCH_WHEEL" 'numpy<2' setuptools wheel \
    && pip install --no-cache-dir 'triton==3.5.1' 'numpy<2' \
    && pip install --no-cache-dir --no-build-isolation .

RUN useradd --create-home --groups video robot
USER robot
WORKDIR /home/robot
STOPSIGNAL SIGINT
ENV AMENT_PREFIX_PATH=$VIRTUAL_ENV
ENTRYPOINT ["/bin/bash", "-c", ". /opt/ros/humble/setup.bash && exec ros2 launch lidar_kd segment.launch.py \"$@\"", "segment"]
CMD ["--show-args"]

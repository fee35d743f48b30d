"""The Python packages for `pip install -e .`; colcon builds the same sources with CMakeLists.txt instead."""

from setuptools import find_packages, setup

SIMULATION = ["mujoco>=3.3", "imageio-ffmpeg>=0.5"]
ARMS = ["mink>=1.3"]  # joint angles, for robots that take nothing else
QUANTIZATION = ["torchao>=0.18,<0.19"]
DATA = [
    "av>=14",
    "google-crc32c>=1.6",
    "h5py>=3.11",
    "mcap>=1.6",
    "pyarrow>=20",
    "rosbags>=0.11.9",
    "tqdm>=4.66",
]
TRAINING = ["peft>=0.17", "tensorboard>=2.19", "tqdm>=4.66"]
BENCHMARKS = ["matplotlib>=3.8"]
CHECKS = ["codespell>=2.3", "hypothesis>=6.100", "mypy>=1.11", "pytest>=8", "ruff>=0.12"]
# rclpy and the message packages for a machine without ROS 2. scripts/setup installs them with their build tools.
ROS = [
    "ros-jazzy-rclpy[fastrtps]==7.1.6",
    "ros-diagnostic-msgs==5.3.6",
    "ros-geometry-msgs==5.3.6",
    "ros-sensor-msgs==5.3.6",
    "ros-std-msgs==5.3.6",
    "ros-std-srvs==5.3.6",
    "ros-trajectory-msgs==5.3.6",
]

setup(
    name="openvla_ros",
    version="0.1.0",
    description="Vision-language-action policies of the OpenVLA architecture on ROS 2",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["openvla_core", "openvla_core.*", "openvla_ros", "openvla_ros.*"]),
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.9",
        "pillow>=10",
        "pyyaml>=6",
        "rich>=13",
        "safetensors>=0.4.5",
        "tokenizers>=0.22",
        "torch>=2.10",
        "transformers>=5.3",
    ],
    extras_require={
        "sim": SIMULATION,
        "arms": ARMS,
        "data": DATA,
        "quantization": QUANTIZATION,
        "training": TRAINING,
        "benchmarks": BENCHMARKS,
        "checks": CHECKS,
        "ros": ROS,
    },
    entry_points={"console_scripts": ["openvla = openvla_ros.cli:main"]},
)

"""How to draw without a screen. MuJoCo and Mesa read these variables when they are first imported."""

import ctypes.util
import os

# With its own worker threads Mesa's software renderer is about half as fast on images this small.
MESA = {"LP_NUM_THREADS": "0"}


def headless_environment() -> dict[str, str]:
    """Environment variables for a process that renders."""
    return {"MUJOCO_GL": rendering_backend(), **MESA}


def prepare_headless() -> None:
    """Sets what is not set yet, for this process and its children; call it before importing mujoco."""
    for name, value in headless_environment().items():
        os.environ.setdefault(name, value)


def rendering_backend() -> str:
    """How MuJoCo shall render without a screen: MUJOCO_GL when set, else the library that is installed."""
    if os.environ.get("MUJOCO_GL"):
        return os.environ["MUJOCO_GL"]
    has_driver = ctypes.util.find_library("EGL_mesa") or ctypes.util.find_library("EGL_nvidia")
    if ctypes.util.find_library("EGL") and has_driver:
        return "egl"
    return "osmesa" if ctypes.util.find_library("OSMesa") else "egl"

"""How to draw without a screen. MuJoCo and Mesa read these when they are first imported."""

import ctypes.util
import os

# With its own worker threads Mesa's software renderer is about half as fast on images this small.
MESA = {"LP_NUM_THREADS": "0"}


def headless_environment() -> dict[str, str]:
    """Environment variables for a process that renders: EGL where the library is there, OSMesa otherwise."""
    backend = "egl" if ctypes.util.find_library("EGL") else "osmesa"
    return {"MUJOCO_GL": backend, **MESA}


def prepare_headless() -> None:
    """Sets what is not set yet, for this process and its children; call it before importing mujoco."""
    for name, value in headless_environment().items():
        os.environ.setdefault(name, value)

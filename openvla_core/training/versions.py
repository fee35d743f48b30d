"""Which library versions a result was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "mujoco")


def library_versions() -> dict[str, str]:
    """Version of Python and of each installed library that can change a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

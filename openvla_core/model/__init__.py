"""The OpenVLA architecture: two vision towers, a projector and a Llama, with the published parameter names."""

from openvla_core.model.config import LanguageConfig, OpenVLAConfig, TowerConfig
from openvla_core.model.openvla import OpenVLA, OpenVLAOutput

__all__ = ["LanguageConfig", "OpenVLA", "OpenVLAConfig", "OpenVLAOutput", "TowerConfig"]

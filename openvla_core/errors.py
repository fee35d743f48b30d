"""Errors a user can fix. Each message says what was given, what was expected and what to do next."""


class OpenVLAError(Exception):
    """Base of every error this project raises on purpose."""


class CheckpointError(OpenVLAError):
    """A checkpoint directory is incomplete, damaged or not an OpenVLA checkpoint."""


class StatisticsError(OpenVLAError):
    """Action statistics are missing, ambiguous or unusable."""


class ActionTokenError(OpenVLAError):
    """The model emitted something that is not an action token."""


class InstructionError(OpenVLAError):
    """An instruction is empty, too long, carries control characters or is unknown to the checkpoint."""


class ImageError(OpenVLAError):
    """An image has a shape, type or encoding that cannot be turned into RGB."""


class ConventionError(OpenVLAError):
    """An action convention card is missing, incomplete or not understood."""


class ActionError(OpenVLAError):
    """An action is not finite, has the wrong length or is far beyond every limit."""


class KinematicsError(OpenVLAError):
    """A pose has no joint angles near the ones the arm has, or the arm is unknown."""


class DeadlineError(OpenVLAError):
    """A request was not begun in time, so that its answer would have been about a world that has moved on."""


class ConfigError(OpenVLAError):
    """A setting is unknown or outside its range."""


class SecurityError(OpenVLAError):
    """A setting would leave the robot open to others, or promises a protection that would not be there."""


class DatasetError(OpenVLAError):
    """A recording or a data set is damaged, incomplete or does not mean what it would be used for."""

"""Plain values, services, diagnostics and parameters."""

from rclpy.parameter import parameter_value_to_python

from openvla_ros import topics
from openvla_ros.conversions.headers import set_header
from openvla_ros.conversions.records import StatusReport
from openvla_ros.topics import State


def to_text(message: topics.String) -> str:
    """The text of a String message."""
    return message.data


def text_message(text: str) -> topics.String:
    """A String message of the text."""
    return topics.String(data=text)


def to_flag(message: topics.Bool) -> bool:
    """The value of a Bool message."""
    return message.data


def to_number(message: topics.Float64) -> float:
    """The number of a Float64 message."""
    return message.data


def number_message(value: float) -> topics.Float64:
    """A Float64 message of the number."""
    return topics.Float64(data=float(value))


def is_set_to(request: topics.SetBool.Request) -> bool:
    """The value a SetBool request asks for."""
    return request.data


def reply(response, success: bool, sentence: str):
    """Fills the response of a Trigger or SetBool service and returns it."""
    response.success = success
    response.message = sentence
    return response


def replied(response) -> tuple[bool, str]:
    """Success and sentence of a Trigger or SetBool response."""
    return response.success, response.message


def diagnostics_message(name: str, report: StatusReport, values: dict[str, str]) -> topics.DiagnosticArray:
    """A DiagnosticArray with one entry: OK, WARN while holding, ERROR after a fault."""
    level = topics.DiagnosticStatus.OK
    if report.state == State.HOLD:
        level = topics.DiagnosticStatus.WARN
    if report.state in (State.FAULT, State.ESTOP):
        level = topics.DiagnosticStatus.ERROR
    pairs = [topics.KeyValue(key=key, value=value) for key, value in values.items()]
    entry = topics.DiagnosticStatus(level=level, name=name, message=f"{report.code}: {report.sentence}", values=pairs)
    return set_header(topics.DiagnosticArray(status=[entry]), report.stamp_ns)


def parameter_descriptor(
    description: str, constraints: str = "", read_only: bool = False, number_range=None, dynamic_typing: bool = False
) -> topics.ParameterDescriptor:
    """A descriptor; number_range is (minimum, maximum) of ints or floats, or None."""
    descriptor = topics.ParameterDescriptor(
        description=description,
        additional_constraints=constraints,
        read_only=read_only,
        dynamic_typing=dynamic_typing,
    )
    if number_range is not None:
        low, high = number_range
        if isinstance(low, int):
            descriptor.integer_range = [topics.IntegerRange(from_value=low, to_value=high, step=0)]
        else:
            descriptor.floating_point_range = [topics.FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor


def parameters_result(successful: bool, reason: str = "") -> topics.SetParametersResult:
    """The answer to a request to set parameters."""
    return topics.SetParametersResult(successful=successful, reason=reason)


def parameter_values(response: topics.GetParameters.Response) -> list:
    """The values in a response of get_parameters; None for a parameter that is not set."""
    return [parameter_value_to_python(value) for value in response.values]

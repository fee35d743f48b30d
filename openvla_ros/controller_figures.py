"""What the controller measures about itself: rates, latency, ticks, and why actions were changed or refused."""

from collections import Counter

from openvla_core.supervisor import Accepted
from openvla_ros.timing import Histogram, RateWindow

LATENCY_ENDS_MS = (50, 100, 150, 200, 300, 400, 500)
OVERRUN = 1.5  # periods between two ticks from which the later one counts as late


class ControllerFigures:
    """Figures for the status and for /diagnostics."""

    def __init__(self, rate_hz: float) -> None:
        self._period_s = 1.0 / rate_hz
        self._ticks = RateWindow(10.0)
        self._commands = RateWindow(2.0)
        self._photon_to_command = RateWindow(30.0)
        self._histogram = Histogram(LATENCY_ENDS_MS)
        self._reasons: Counter[str] = Counter()
        self._overruns = 0
        self._last_tick_s: float | None = None

    def on_tick(self, now_s: float, sent: bool) -> None:
        """Notes a tick, how long the one before it is ago, and whether a command was made."""
        if self._last_tick_s is not None:
            passed_s = now_s - self._last_tick_s
            self._ticks.add(passed_s, now_s)
            self._overruns += passed_s > OVERRUN * self._period_s
        self._last_tick_s = now_s
        if sent:
            self._commands.add(now_s=now_s)

    def on_action(self, action: Accepted, photon_to_command_s: float) -> None:
        """Notes that the first command of an action was made."""
        self._photon_to_command.add(photon_to_command_s)
        self._histogram.add(photon_to_command_s)
        self._reasons.update(action.reasons)

    def measured(self) -> dict[str, float]:
        """The fields of the status."""
        return {
            "rate_hz": self._commands.rate_hz(),
            "latency_p50_ms": self._photon_to_command.percentile_ms(50),
            "latency_p95_ms": self._photon_to_command.percentile_ms(95),
        }

    def details(self) -> dict[str, str]:
        """Key-value pairs for /diagnostics."""
        return {
            "action_rate_hz": f"{self._photon_to_command.rate_hz():.2f}",
            "tick_p50_ms": f"{self._ticks.percentile_ms(50):.1f}",
            "tick_p99_ms": f"{self._ticks.percentile_ms(99):.1f}",
            "tick_max_ms": f"{self._ticks.percentile_ms(100):.1f}",
            "tick_overruns": str(self._overruns),
            **self._histogram.values("photon_to_command"),
            **{f"clipped: {reason}": str(count) for reason, count in self._reasons.most_common(8)},
        }

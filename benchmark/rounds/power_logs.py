"""The energy of a run from MLPerf's power logs: `power/result_N/node_*.txt` and, for switches, `sw_*.txt`.

The rule is MLPerf's (mlperf_logging.result_summarizer, `_compute_total_power`): a node's mean power over its measurement,
behind its power supply (`conversion_eff`), times the run's time to train; for a switch, an estimate of its power
(`interconnect_power_est`) instead of readings.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from benchmark.mllog import Event, read_lines
from common.errors import UserError
from common.values import is_number

_START, _STOP, _READING = "power_measurement_start", "power_measurement_stop", "power_reading"
_EFFICIENCY, _ESTIMATE = "conversion_eff", "interconnect_power_est"
_TIME = Event._fields.index("time_ms")


def energy_joules(power_folder: Path, log: Path, run_ms: float) -> float:
    """The energy of the run with a log `result_N.txt`, which took `run_ms` milliseconds, over all nodes and switches.

    Raises UserError for logs that are missing or do not say, OSError for one that cannot be read.
    """
    folder = power_folder / log.name.split(".")[0]
    nodes, switches = sorted(folder.glob("node_*.txt")), sorted(folder.glob("sw_*.txt"))
    if not nodes:
        raise UserError("no power logs node_*.txt", where=folder)
    watts = sum(_of_node(path) for path in nodes) + sum(_of_switch(path) for path in switches)
    return watts * run_ms / 1000


def _of_node(path: Path) -> float:
    """A node's mean power in watts over its measurement."""
    started = stopped = last = None
    joules, efficiency = 0.0, 1.0
    for key, value, _, time_ms, *_, line in sorted(_events(path), key=itemgetter(_TIME)):
        if key == _READING:
            # Readings are nearly all of the lines.
            if last is not None and stopped is None:
                joules += _number(value, key, line, path) * (time_ms - last)
                last = time_ms
        elif key == _START:
            started = last = time_ms
        elif key == _STOP:
            stopped = time_ms
        elif key == _EFFICIENCY:
            efficiency = _number(value, key, line, path)
    if started is None or last is None:
        raise UserError(f"no {_START}", where=path)
    # A log without its end was measured until its last reading.
    span = (last if stopped is None else stopped) - started
    if span <= 0:
        raise UserError("the power measurement has no duration", where=path)
    return efficiency * joules / span


def _of_switch(path: Path) -> float:
    """A switch's estimated power in watts."""
    efficiency = 1.0
    for event in _events(path):
        if event.key == _EFFICIENCY:
            efficiency = _number(event.value, event.key, event.line, path)
        if event.key == _ESTIMATE:
            return efficiency * _number(event.value, event.key, event.line, path)
    return 0.0


def _events(path: Path) -> Iterator[Event]:
    with open(path, "rb") as file:
        yield from (line for line in read_lines(file) if isinstance(line, Event))


def _number(value: object, key: str, line: int, path: Path) -> float:
    if not is_number(value):
        raise UserError(f"{key} is not a number", where=f"{path}:{line}")
    return value

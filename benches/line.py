"""A bench's result line, and alternating timing of two implementations, so that other load affects both equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One result: `ours` and `peer` as text with units, their ratio (how many times as fast ours is), and the goal.

    With `goal` None there is no goal; with `at_most` the goal is an upper bound (a cost, not a speed).
    """

    name: str
    ours: str
    peer: str
    ratio: float
    goal: float | None = None
    at_most: bool = False

    @property
    def goal_met(self) -> bool:
        """Whether the goal is met."""
        if self.goal is None:
            return True
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    def __str__(self) -> str:
        goal = "-" if self.goal is None else f"{'<=' if self.at_most else '>='} {self.goal:g}"
        missed = "" if self.goal_met else "  MISSED"
        return f"{self.name}, {self.ours}, {self.peer}, {self.ratio:.4g}, {goal}{missed}"


def report(lines: Sequence[Line]) -> int:
    """Print the lines and return the exit status: 1 if a goal was missed."""
    for line in lines:
        print(line, flush=True)
    return 0 if all(line.goal_met for line in lines) else 1


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def alternating(ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median seconds of ours and of the peer, and the median of the rounds' own ratios peer / ours, after one warm-up each."""
    ours()
    peer()
    pairs = []
    for number in range(rounds):
        # The order alternates too, because a call may warm up caches and clocks for the next one.
        if number % 2:
            peer_s = seconds(peer)
            ours_s = seconds(ours)
        else:
            ours_s = seconds(ours)
            peer_s = seconds(peer)
        pairs.append((ours_s, peer_s))
    ratio = statistics.median(peer_s / ours_s for ours_s, peer_s in pairs)
    return statistics.median(one for one, _ in pairs), statistics.median(other for _, other in pairs), ratio

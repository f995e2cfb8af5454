"""What package_checker checks of a result and this check did not, as warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlperf_logging.benchmark_meta import get_allowed_benchmarks

from common.errors import listed
from compliance.findings import WARNING, Fault, Rule, shown
from compliance.mlperf.checked_result import CLOSED, RCP_BYPASS, SEED_BYPASS, MlperfResult
from compliance.mlperf.reference_points import has_points

OPEN = "open"
_SHOWN = 3
_BY_HAND = "check it by hand, against MLPerf's rules of that round"


@dataclass
class Coverage:
    """All MLPerf results of a package, and what was found outside their folders (`PATH: reason`)."""

    org: Path
    results: list[MlperfResult]
    outside: list[str] = field(default_factory=list)


def _check(package: Coverage) -> Iterator[Fault]:
    grouped: dict[tuple[str, str], list[MlperfResult]] = {}
    for result in package.results:
        for reason in _not_checked(result):
            grouped.setdefault(reason, []).append(result)
    for (found, remedy), results in grouped.items():
        names = listed([f"{result.place.system}/{result.benchmark}" for result in results], _SHOWN)
        place = results[0].folder if len(results) == 1 else package.org
        found = f"not checked: {found}: {names}"
        yield Fault("results that are checked as package_checker does", found, remedy, None, WARNING, place)
    remedy = "name logs result_N.txt, and keep other files elsewhere"
    for result in package.results:
        for name in result.place.unread:
            yield Fault("only result_*.txt and power/", f"not read: {name}", remedy, None, WARNING, result.folder)
    for text in package.outside:
        folder, _, why = text.partition(": ")
        remedy = "put logs into results/SYSTEM/BENCHMARK"
        yield Fault("logs at the place of a result", why, remedy, None, WARNING, Path(folder))


def _not_checked(result: MlperfResult) -> Iterator[tuple[str, str]]:
    rules = result.rules
    if rules.name is None:
        yield f"logs, number of runs, seeds and convergence ({rules.why_none})", _BY_HAND
        return
    if not result.in_round:
        names = ", ".join(dict.fromkeys(get_allowed_benchmarks(rules.usage, rules.name)))
        yield (
            f"logs, number of runs, seeds and convergence ({result.benchmark} is not in {rules})",
            f"benchmarks of the round: {names}",
        )
        return
    if rules.guessed:
        yield (
            f"the round (no folder's name has it; {rules} was used, the newest rule set with this benchmark)",
            "put the package into a folder training_results_vX.Y, or pass --ruleset",
        )
    if int(rules.name.split(".")[0]) < 1:
        yield f"seeds, convergence and descriptions ({rules} has no rules on them)", _BY_HAND
    elif result.division not in (CLOSED, OPEN):
        remedy = "write closed or open into the system's description"
        yield f"seeds and convergence (the division is {shown(result.division)})", remedy
    elif result.division == CLOSED:
        yield from _of_closed(result)


def _of_closed(result: MlperfResult) -> Iterator[tuple[str, str]]:
    if SEED_BYPASS in result.bypasses:
        yield f"seeds ({SEED_BYPASS} in {result.bypasses[SEED_BYPASS].name})", "have it reviewed by the committee"
    if RCP_BYPASS in result.bypasses:
        path = result.bypasses[RCP_BYPASS]
        yield f"convergence as an error ({RCP_BYPASS} in {path.name})", "have it reviewed by the committee"
    if result.benchmark == "minigo":
        yield "convergence (MLPerf has no reference convergence points of minigo)", _BY_HAND
    elif not has_points(result):
        yield (
            f"convergence (mlperf_logging has no reference convergence points of {result.benchmark} in {result.rules})",
            _BY_HAND,
        )


COVERAGE_RULES = [
    Rule(
        "official-coverage",
        "What package_checker checks and this check did not, and files that are not read (warning).",
        _check,
    )
]

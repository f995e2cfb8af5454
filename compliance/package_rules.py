"""Rules of a submission package: its tree, its system descriptions and whether they agree with the logs, its checksums."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmark import mllog
from benchmark.machine.system import FIELDS
from benchmark.params import load_params
from benchmark.record import read_record
from benchmark.submission import (
    AVAILABILITY,
    BENCHMARKS,
    FOLDERS,
    LOCK_FILE,
    LOG_FILE,
    PARAMS_FILE,
    RECORD_FILE,
    SUMS_FILE,
    SYSTEM_FILES,
    SYSTEMS,
    code_of,
    description_of,
    devices_of,
    file_of_run,
    is_numbered,
    locks_of,
    module_files,
    number_of,
    numbered,
    setup_of,
)
from common.errors import UserError
from common.files import sha256_of
from common.values import is_text
from compliance.benchmarks import checked_as, is_other_benchmark
from compliance.findings import ERROR, WARNING, Fault, Rule, shown
from compliance.log import Log
from compliance.mlperf.official_logs import RuleSet
from compliance.mlperf.system_rules import line_of_field, system_faults

DECISIVE = (
    "submitter",
    "division",
    "status",
    "system_name",
    "number_of_nodes",
    "host_processor_model_name",
    "framework",
    "operating_system",
)
"""Fields without which it is unknown what was measured."""
MAY_BE_EMPTY = ("hw_notes", "sw_notes")


@dataclass
class Result:
    """One folder of results in a package, ORG/results/SYSTEM/BENCHMARK, with its logs in the order of their numbers."""

    folder: Path
    system: str
    benchmark: str
    logs: list[Log] = field(default_factory=list)

    @property
    def ours(self) -> bool:
        """Whether these are DeepSpeech2 results, by the folder's name or by that in a log."""
        return self.benchmark == mllog.BENCHMARK or any(log.benchmark == mllog.BENCHMARK for log in self.logs)

    @property
    def own_logs(self) -> list[Log]:
        """The logs that must agree with description, parameters and records: all except those of another benchmark."""
        return [log for log in self.logs if not is_other_benchmark(log)]


@dataclass
class Package:
    """A submitter's folder with systems/, results/ and benchmarks/.

    `descriptions` has the parsed descriptions of the systems of DeepSpeech2 results, `broken` the reason for each that
    cannot be read. `rules` is the rule set of its MLPerf results, None if it has none.
    """

    org: Path
    results: list[Result]
    rules: RuleSet | None = None
    descriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether the package contains DeepSpeech2 results: then it must be complete and have SHA256SUMS."""
        return any(result.ours for result in self.results)

    def description_path(self, system: str) -> Path:
        """Path of a system's description."""
        return self.org / description_of(system)


def read_package(org: Path, results: list[Result], rules: RuleSet | None) -> Package:
    """Read the system descriptions of a package; those that cannot be read go to `broken` with the reason."""
    package = Package(org, results, rules)
    for system in {result.system for result in results if result.ours}:
        try:
            tree = orjson.loads(package.description_path(system).read_bytes())
        except FileNotFoundError:
            package.broken[system] = "no such file"
        except (OSError, orjson.JSONDecodeError) as error:
            package.broken[system] = str(error)
        else:
            if isinstance(tree, dict):
                package.descriptions[system] = tree
            else:
                package.broken[system] = "not a JSON object"
    return package


def package_tree(package: Package) -> Iterator[Fault]:
    """The package has its three folders; each result folder has result_0.txt and so on, and no unknown files."""
    for name in FOLDERS:
        if not (package.org / name).is_dir():
            # Repositories of old rounds are often kept without their code, which does not invalidate a result.
            warn = name == BENCHMARKS and not package.ours
            remedy = "build the package with `python -m results package`"
            yield Fault(f"a folder {name}/", "none", remedy, None, WARNING if warn else ERROR, package.org / name)
    if not package.results:
        yield Fault("results/SYSTEM/BENCHMARK/result_N.txt", "none", "put the results there", file=package.org)
    for result in package.results:
        if result.ours:
            yield from _numbering(result)


def _numbering(result: Result) -> Iterator[Fault]:
    numbers = {number_of(log.path) for log in result.logs}
    for number in sorted(set(range(len(numbers))) - numbers):
        path, remedy = result.folder / numbered(LOG_FILE, number), "number the results from 0 without gaps"
        yield Fault(path.name, "none", remedy, file=path)
    for path in sorted(result.folder.iterdir()):
        if not is_numbered(path):
            remedy = "keep only results, records and the runs' files here"
            yield Fault("only result_N.txt, record_N.json and the run's files", path.name, remedy, None, WARNING, path)


def package_system(package: Package) -> Iterator[Fault]:
    """Each system has a description with all 33 fields; those of DeepSpeech2 results are filled in."""
    if package.rules is not None:
        yield from _mlperf_systems(package, package.rules)
    for system, reason in sorted(package.broken.items()):
        remedy = "write the system's description (`python -m results package` makes one)"
        yield Fault(f"the description of {system}", reason, remedy, file=package.description_path(system))
    for system, tree in sorted(package.descriptions.items()):
        path = package.description_path(system)
        for name in FIELDS:
            if name not in tree:
                yield Fault(f"the field {name}", "missing", "add it; N/A where it does not apply", file=path)
            elif name != "other_software_stack" and not isinstance(tree[name], str):
                yield Fault(
                    f"{name}: text", shown(tree[name]), "write it in quotes", line_of_field(path, name), file=path
                )
            elif not tree[name] and name not in MAY_BE_EMPTY:
                remedy = "fill it in (`python -m results package --describe FILE`); N/A where it does not apply"
                severity = ERROR if name in DECISIVE else WARNING
                yield Fault(f"a value for {name}", "empty", remedy, line_of_field(path, name), severity, path)


def _mlperf_systems(package: Package, rules: RuleSet) -> Iterator[Fault]:
    """The descriptions as MLPerf's checker sees them, except those of DeepSpeech2 results.

    Before round 1.0 it sees only those of systems with results.
    """
    if rules.name is None:
        return
    named = {result.system for result in package.results}
    strict = {result.system for result in package.results if result.ours}
    early = rules.name.startswith("0.")
    present = set() if early else {path.stem for path in (package.org / SYSTEMS).glob("*.json")}
    for system in sorted((named | present) - strict):
        yield from system_faults(package.description_path(system), rules)


def package_agreement(package: Package) -> Iterator[Fault]:
    """Descriptions agree with the names of their folders and with the logs."""
    for result in package.results:
        for log in result.logs:
            # An unknown name is already a finding of the log itself.
            if log.benchmark not in (None, result.benchmark) and checked_as(log) is not None:
                remedy = "put the logs into the folder named after their benchmark"
                line = log.line(mllog.SUBMISSION_BENCHMARK)
                yield Fault(f"logs of {result.benchmark}", shown(log.benchmark), remedy, line, file=log.path)
        tree = package.descriptions.get(result.system)
        if tree is None or not result.ours:
            continue
        path = package.description_path(result.system)
        if tree.get("submitter") != package.org.name:
            found, remedy = shown(tree.get("submitter")), "use one name for the submitter everywhere"
            yield Fault(f"submitter {package.org.name}", found, remedy, line_of_field(path, "submitter"), file=path)
        for log in result.own_logs:
            yield from _log_agrees(tree, log, path)


def _log_agrees(tree: dict[str, Any], log: Log, path: Path) -> Iterator[Fault]:
    status = log.value(mllog.SUBMISSION_STATUS)
    pairs = [
        (mllog.SUBMISSION_ORG, "submitter", tree.get("submitter"), log.value(mllog.SUBMISSION_ORG)),
        (mllog.SUBMISSION_DIVISION, "division", tree.get("division"), log.value(mllog.SUBMISSION_DIVISION)),
        (
            mllog.SUBMISSION_STATUS,
            "status",
            tree.get("status"),
            AVAILABILITY.get(status) if is_text(status) else status,
        ),
    ]
    devices, gpus = devices_of(log.value(mllog.ACCELERATORS))
    nodes, per_node = tree.get("number_of_nodes"), tree.get("accelerators_per_node")
    if gpus and str(nodes).isdecimal() and str(per_node).isdecimal():
        # A run may use fewer accelerators than the machine has, but the description must be of what was measured.
        pairs.append((mllog.ACCELERATORS, "accelerators_per_node", int(nodes) * int(per_node), len(gpus)))  # type: ignore[arg-type]
        pairs.append(
            (mllog.ACCELERATORS, "accelerator_model_name", tree.get("accelerator_model_name"), gpus[0].get("name"))
        )
    elif devices and not gpus and str(per_node).isdecimal():
        pairs.append((mllog.ACCELERATORS, "accelerators_per_node", int(per_node), 0))  # type: ignore[arg-type]
    for key, name, described, logged in pairs:
        if logged is not None and described != logged:
            expected = f"{key} as in the description: {name} {shown(described)}"
            remedy = f"describe the system that ran ({path.name}), or submit its own logs"
            yield Fault(expected, shown(logged), remedy, log.line(key), file=log.path)


def package_record(package: Package) -> Iterator[Fault]:
    """Each result has its record next to it."""
    for result in package.results:
        for log in result.own_logs if result.ours else []:
            path = file_of_run(log.path, RECORD_FILE)
            if path is not None and not path.is_file():
                yield Fault(
                    f"{path.name} next to {log.path.name}", "no such file", "add the run's record.json", file=path
                )


def package_code(package: Package) -> Iterator[Fault]:
    """The code that ran is included, with its lock file and with each system's parameters and start script."""
    for result in package.results:
        if not result.ours:
            continue
        if not locks_of(package.org, result.benchmark):
            remedy = "add the code that ran (`python -m results package` does)"
            path = (package.org / code_of("NAME", result.benchmark)).parent
            yield Fault(f"{path.name}/NAME/ with {LOCK_FILE}", "none", remedy, file=path)
        setup = package.org / setup_of(result.system, result.benchmark)
        for name in SYSTEM_FILES:
            path = setup / name
            if not path.is_file():
                yield Fault(
                    f"{name} for {result.system}",
                    "no such file",
                    "add what is needed to reproduce the result",
                    file=path,
                )
        yield from _params_agree(result, setup / PARAMS_FILE)
        yield from _trainer_is_there(package.org, result)


def _trainer_is_there(org: Path, result: Result) -> Iterator[Fault]:
    """The trainer module named in the records is in one of the implementations."""
    folders = [path.parent for path in locks_of(org, result.benchmark)]
    for log in result.own_logs:
        path = file_of_run(log.path, RECORD_FILE)
        try:
            module = read_record(path).trainer if path else None
        except (OSError, UserError):
            continue  # already a finding of the integrity rules
        files = module_files(module) if module else ()
        if files and folders and not any((folder / name).is_file() for folder in folders for name in files):
            yield Fault(f"the trainer that ran, {files[0]}", "no such file", "add the code that ran", file=folders[0])
            return


def _params_agree(result: Result, path: Path) -> Iterator[Fault]:
    if not path.is_file():
        return
    try:
        sha256 = load_params(path).sha256
    except UserError as error:
        yield Fault("a valid parameter file", str(error), "add the parameters that ran", file=path)
        return
    for log in result.own_logs:
        event = log.first(mllog.PARAMS_SHA256)
        if event and event.value != sha256:
            expected, found = f"the logs' parameters, {shown(event.value)} in {log.path.name}", sha256
            yield Fault(expected, found, "add the parameters that ran", file=path)
            return


def package_sums(package: Package) -> Iterator[Fault]:
    """SHA256SUMS lists every file of the package: none is missing, changed or extra."""
    if not package.ours:
        return
    path = package.org / SUMS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        yield Fault(SUMS_FILE, "no such file", "build the package with `python -m results package`", file=path)
        return
    except (OSError, UnicodeDecodeError) as error:
        yield Fault(f"a readable {SUMS_FILE}", str(error), "build the package again", file=path)
        return
    listed: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(lines, 1):
        found = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if found is None:
            yield Fault("SHA-256, two spaces, path", shown(line), "build the package again", number, file=path)
        else:
            listed[found[2]] = (found[1], number)
    present = {
        file.relative_to(package.org).as_posix(): file
        for file in sorted(package.org.rglob("*"))
        if (file.is_file() or file.is_symlink()) and file != path
    }
    for name, (sha256, number) in listed.items():
        file = present.get(name)
        if file is None:
            remedy = "restore the file, or build the package again"
            yield Fault(f"{name}, in line {number} of {SUMS_FILE}", "no such file", remedy, file=package.org / name)
            continue
        try:
            found_sha256 = sha256_of(file)
        except OSError as error:
            yield Fault(f"a readable {name}", str(error.strerror), "restore the file", file=file)
            continue
        if found_sha256 != sha256:
            remedy = "restore the file, or build the package again from the runs"
            yield Fault(f"{name} with SHA-256 {sha256}", found_sha256, remedy, file=file)
    for name in sorted(present.keys() - listed.keys()):
        remedy = "remove the file, or build the package again"
        yield Fault(f"only files that {SUMS_FILE} lists", name, remedy, file=present[name])


PACKAGE_RULES = [
    Rule("package-tree", "systems/, results/ and benchmarks/ exist, and results are numbered from 0.", package_tree),
    Rule(
        "package-system",
        "Systems are described with MLPerf's 33 fields, for DeepSpeech2 filled in (minor ones: a warning).",
        package_system,
    ),
    Rule("package-agreement", "Descriptions agree with the folders and with the logs.", package_agreement),
    Rule("package-record", "Each DeepSpeech2 result has its record next to it.", package_record),
    Rule(
        "package-code",
        "The code that ran, its lock file, its parameters and its start script are included.",
        package_code,
    ),
    Rule("package-sums", "SHA256SUMS lists every file of the package, with its SHA-256.", package_sums),
]

"""Lines per second of our log reader, compared with mlperf-logging's, on the same real or generated logs, on one thread.

    python -m benches.parse_logs [FOLDER of result_*.txt]

Both read whole files and build one event per line. They alternate, and the best of several rounds counts, because other load
can only slow a round down. The last line is one JSON object. With `--memory`, the peak memory of comparing 200 and 2,000 logs
is printed too: it should not grow with the number of logs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 5
TARGET_RATIO = 10
ROOT = Path(__file__).resolve().parents[1]


def read_ours(path: Path) -> int:
    """Read one log with benchmark.mllog; returns the number of events."""
    from benchmark.mllog import read_log

    return len(read_log(path)[0])


def read_mlperf(path: Path) -> int:
    """Read one log with mlperf-logging's parser; returns the number of lines parsed."""
    from mlperf_logging.compliance_checker.mlp_parser import parse_file

    return len(parse_file(str(path), ruleset="5.1.0")[0])


def generated_log(lines: int) -> str:
    """A log of `lines` evaluations, for use without real logs."""
    from benchmark.mllog import LogWriter

    written: list[str] = []
    log = LogWriter(written.append)
    for epoch in range(1, lines + 1):
        log.event("eval_accuracy", 100 / epoch, epoch_num=epoch, words=1300, word_edits=epoch)
    return "".join(line + "\n" for line in written)


def best_rate(read: Callable[[Path], int], paths: list[Path]) -> tuple[float, int]:
    """Lines per second of one pass over all files, and the lines."""
    start = time.perf_counter()
    lines = sum(read(path) for path in paths)
    return lines / (time.perf_counter() - start), lines


def peak_memory_mb(logs: int) -> float:
    """Peak resident memory of a process that compares `logs` copies of a generated run, in MB."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from results.compare import load_runs\n"
        "from results.comparing.comparison import compare_runs\n"
        "compare_runs(load_runs([Path(sys.argv[1])]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        content = _generated_run()
        for number in range(logs):
            folder = Path(scratch) / "Org" / "results" / f"box{number // 10}" / "deepspeech2"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"result_{number % 10}.txt").write_text(content)
        command = [sys.executable, "-c", program, scratch]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _generated_run() -> str:
    """A complete run's log with 500 evaluations."""
    from benchmark.mllog import LogWriter

    written: list[str] = []
    log = LogWriter(written.append)
    log.event("submission_benchmark", "deepspeech2")
    log.start("run_start")
    written += generated_log(500).splitlines()
    log.end("run_stop", status="success")
    return "".join(line + "\n" for line in written)


def main() -> int:
    """Measure and print; exit status 1 if ours is not TARGET_RATIO times as fast as the peer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="logs to read; default: generated ones")
    parser.add_argument("--memory", action="store_true", help="measure the memory of comparisons too (a minute)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.folder:
            paths = sorted(options.folder.rglob("result_*.txt"))
        else:
            paths = [Path(scratch) / "result_0.txt"]
            paths[0].write_text(generated_log(20_000))
        if not paths:
            print(f"no result_*.txt under {options.folder}", file=sys.stderr)
            return 2
        rates = {"ours": 0.0, "mlperf_logging": 0.0}
        lines = {"ours": 0, "mlperf_logging": 0}
        for _ in range(ROUNDS):
            for name, read in (("ours", read_ours), ("mlperf_logging", read_mlperf)):
                rate, lines[name] = best_rate(read, paths)
                rates[name] = max(rates[name], rate)
    ratio = rates["ours"] / rates["mlperf_logging"]
    for name, rate in rates.items():
        print(f"{name:<15} {rate:>12,.0f} lines/s  ({lines[name]:,} lines in {len(paths)} files)")
    print(f"ratio           {ratio:>12.1f} (goal: {TARGET_RATIO})")
    memory = {str(logs): peak_memory_mb(logs) for logs in (200, 2000)} if options.memory else None
    for logs, megabytes in (memory or {}).items():
        print(f"comparing {logs:>5} logs: peak {megabytes:,.0f} MB")
    print(json.dumps({"lines_per_s": rates, "ratio": ratio, "peak_memory_mb": memory}))
    return 0 if ratio >= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())

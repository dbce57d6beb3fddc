"""What a sweep costs and survives: `python -m benchmarks.sweep kills` or `speed`, from the root.

`kills` runs a sweep of a light experiment again and again while its driver, its workers and the
process that forks them are killed at random moments, until `--count` kills have happened; what is
left must equal an undisturbed sweep to the last bit. `speed` times eight runs that keep one core
busy, one after another, as local processes and on Ray, in turns, and what a run costs on Ray.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.metastep_lab.sweep.kills import main_loop, start, sweep_command

RUNS = 8
TARGET = 0.6


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["kills", "speed"])
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="for kills")
    parser.add_argument("--count", type=int, default=100, help="how many kills")
    parser.add_argument("--pause", type=float, default=1.5, help="mean seconds between kills")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a core that each run takes")
    parser.add_argument("--rounds", type=int, default=2, help="for speed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "kills":
            kills(Path(folder), options)
        else:
            speed(Path(folder), options)


def kills(folder: Path, options: argparse.Namespace) -> None:
    """Kill processes at random and compare."""
    grid = ["--grid", "rate=0.1,0.2,0.3", "--seeds", "0:4", "--set", "steps=12"]
    command = [*grid, "--set", "pause=0.05", "--retries", "3", "--engine", options.engine]
    count = main_loop(folder, command, options.count, options.seed, options.pause, print)
    total = count["driver"] + count["other"]
    print(
        f"{total} kills ({count['driver']} of the driver, {count['other']} of others), "
        f"{count['starts']} starts: every sweep ended with the bits of the undisturbed one"
    )


def speed(folder: Path, options: argparse.Namespace) -> None:
    """Time the engines in turns."""
    engines = {
        "one after another": ["--jobs", "1", "--cpus", "1"],
        "local": ["--jobs", "2"],
        "ray": ["--jobs", "2", "--engine", "ray"],
    }
    times: dict[tuple[str, bool], list[float]] = {}
    for round_ in range(options.rounds):
        for busy in (True, False):
            for name, engine in engines.items():
                out = folder / f"{name}-{round_}-{busy}"
                burn = options.seconds / 4 if busy else 0.0
                grid = ["--seeds", f"0:{RUNS}", "--set", f"burn={burn}"]
                begin = time.monotonic()
                status = start(sweep_command(out, *grid, *engine), folder / "log.txt").wait()
                assert status == 0, (folder / "log.txt").read_text()
                times.setdefault((name, busy), []).append(time.monotonic() - begin)
                print(f"{name}, {'busy' if busy else 'empty'} runs: {times[name, busy][-1]:.1f} s")
    first = times["one after another", True]
    for name in ("local", "ray"):
        ratio = median(a / b for a, b in zip(times[name, True], first, strict=True))
        print(f"{name}: {ratio:.2f} of one after another (target: at most {TARGET})")
    extra = [a - b for a, b in zip(times["ray", False], times["local", False], strict=True)]
    print(f"Ray's start and {RUNS} empty runs take {median(extra):.1f} s more than local ones")


if __name__ == "__main__":
    main()

"""Killing the processes of a sweep at random moments, and comparing what is left of it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from pyarrow import csv

from metastep_lab.runs.records import read_result

ROOT = Path(__file__).parents[3]
MODULE = "tests.metastep_lab.sweep.light_experiment"
DRIVER_SHARE = 0.3
EARLY_SHARE = 0.1
CHANGING = ("attempts", "seconds")


def sweep_command(out, *options):
    """The command of a sweep of the light experiment in a process of its own."""
    return [sys.executable, "-m", MODULE, "sweep", "light-walk", "--out", str(out), *options]


def start(command, log):
    """Start a driver whose output goes to a file."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )


def descendants(pid):
    """The processes below one, the nearest first."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, front = [], [pid]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += front
    return found


def disturb(command, log, kills, chance, pause):
    """Repeat a command, killing its processes at random, until it has succeeded.

    Args:
        command: the sweep.
        log: the file for its output.
        kills: how many processes are killed at most.
        chance: a `random.Random`.
        pause: seconds between kills, on average.

    Returns:
        How many drivers and how many other processes were killed, and how often it was started.
    """
    count = Counter()
    while True:
        driver = start(command, log)
        count["starts"] += 1
        while driver.poll() is None:
            if count["driver"] + count["other"] >= kills:
                driver.wait(timeout=300)
                break
            try:
                driver.wait(timeout=chance.expovariate(1 / pause))
                break
            except subprocess.TimeoutExpired:
                pass
            others = descendants(driver.pid)
            if not others and chance.random() > EARLY_SHARE:
                continue  # it is still importing
            kind = "other" if others and chance.random() > DRIVER_SHARE else "driver"
            try:
                os.kill(chance.choice(others) if kind == "other" else driver.pid, signal.SIGKILL)
                count[kind] += 1
            except ProcessLookupError:
                pass
        if driver.wait() == 0:
            return count
        assert driver.returncode in (1, -signal.SIGKILL), driver.returncode
        assert count["starts"] < 20 + 2 * kills, "it does not come to an end"


def content(out):
    """Everything of a sweep that no interruption may change; fails where a row is there twice."""
    table = csv.read_csv(out / "sweep.csv")
    assert len(set(table["key"].to_pylist())) == table.num_rows
    assert set(table["status"].to_pylist()) == {"complete"}
    found = {"sweep.csv": table.drop_columns([*CHANGING]).to_pydict()}
    found["sweep.json"] = json.loads((out / "sweep.json").read_bytes())
    for run in sorted((out / "runs").iterdir()):
        result = read_result(run)
        names = ("config", "seed", "status", "command", "metrics", "claims")
        found[run.name] = {name: result[name] for name in names}
        for path in sorted(run.rglob("*")):
            if path.is_file() and path.name not in ("result.json", ".lock"):
                found[f"{run.name}/{path.relative_to(run)}"] = path.read_bytes()
    del found["sweep.csv"]["metric_nothing"]
    return found


def main_loop(folder, options, kills, seed, pause, say):
    """Disturb sweeps until a number of kills has happened, each held against a quiet one."""
    quiet = folder / "quiet"
    driver = start(sweep_command(quiet, *options), folder / "quiet.txt")
    assert driver.wait(timeout=600) == 0, (folder / "quiet.txt").read_text()
    expected, chance, count, number = content(quiet), random.Random(seed), Counter(), 0
    begin = time.monotonic()
    while count["driver"] + count["other"] < kills:
        out, log = folder / f"disturbed-{number}", folder / f"disturbed-{number}.txt"
        rest = kills - count["driver"] - count["other"]
        count += disturb(sweep_command(out, *options), log, rest, chance, pause)
        assert content(out) == expected, f"{out} differs from {quiet}"
        number += 1
        say(f"{number} sweeps, {time.monotonic() - begin:.0f} s: {dict(count)}")
    return count

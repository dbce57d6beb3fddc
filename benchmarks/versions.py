"""Which versions of Python and of JAX does metastep work with?

Makes an environment for each pair, installs both packages with their tests, runs the tests, and
prints one row of a table for each. An installation takes a minute, all tests take ten on two cores.
`--light` leaves out PyTorch, Ray and whatever else only some tests need.

    python benchmarks/versions.py python3.11 python3.12 /path/to/python3.13 --jax 0.10.2 \
        --light --tests tests/metastep/problems tests/metastep_lab/theory
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVERY_TEST_NEEDS = ["beartype", "hypothesis", "mpmath", "pytest", "pytest-xdist"]
WHAT = "import sys, jax, metastep; print(sys.version.split()[0], jax.__version__)"


def pinned(jax: str | None, folder: Path) -> Path:
    """Write the constraints with another version of JAX, or return them as they are."""
    given = ROOT / "constraints.txt"
    if jax is None:
        return given
    changed = re.sub(r"^(jax|jaxlib)==.*$", rf"\1=={jax}", given.read_text(), flags=re.MULTILINE)
    path = folder / "constraints.txt"
    path.write_text(changed)
    return path


def tried(interpreter: str, jax: str | None, tests: list[str], light: bool) -> str:
    """Install and test in a fresh environment; return a row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([interpreter, "-m", "venv", folder / "env"], check=True)
        python = str(folder / "env" / "bin" / "python")
        packages = ["-e", "packages/metastep", "-e", "packages/metastep-lab"]
        packages = (
            [*packages, *EVERY_TEST_NEEDS] if light else [*packages[:3], f"{packages[3]}[test]"]
        )
        install = [python, "-m", "pip", "install", "--quiet", "--constraint"]
        made = subprocess.run([*install, pinned(jax, folder), *packages], cwd=ROOT)
        if made.returncode:
            return f"| {interpreter} | {jax or 'pinned'} | cannot be installed |"
        versions = subprocess.run([python, "-c", WHAT], capture_output=True, text=True, cwd=folder)
        run = [python, "-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", *tests]
        ended = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
        summary = ended.stdout.strip().splitlines()[-1].strip("= ")
        print(ended.stdout if ended.returncode else summary, file=sys.stderr)
        return f"| {' | '.join(versions.stdout.split())} | {summary.split(' in ')[0]} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("interpreters", nargs="+", help="Python 3.11 or newer")
    parser.add_argument("--jax", nargs="*", default=[None], help="versions; the pinned one if none")
    parser.add_argument("--tests", nargs="*", default=[], help="what to run; all if none")
    parser.add_argument("--light", action="store_true", help="without optional packages")
    given = parser.parse_args()
    print("| Python | JAX | tests |\n|---|---|---|", flush=True)
    for interpreter in given.interpreters:
        for jax in given.jax:
            print(tried(interpreter, jax, given.tests, given.light), flush=True)

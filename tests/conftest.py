"""Strict numerics everywhere, one key per test, and which tests are left to `make test-slow`."""

import gc
import resource
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.load_profile("fixed")

with install_import_hook(["metastep", "metastep_lab"], "beartype.beartype"):
    import metastep  # noqa: F401

# What is imported stays: looking through it again at every collection takes 5 % of the time.
gc.freeze()
gc.set_threshold(100_000, 50, 1000)

HERE = Path(__file__).parent
MOST_MAPS = 30_000
MOST_BYTES = 3 * 2**30


def pytest_collection_modifyitems(config, items):
    """Mark as slow what `slow.txt` lists, and refuse a line that names no test."""
    lines = (HERE / "slow.txt").read_text().splitlines()
    listed = {line for line in lines if not line.startswith("#")}
    found = set()
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        named = {name, name.split("[")[0]} & listed
        found |= named
        if named:
            item.add_marker(pytest.mark.slow)
    everything = config.args == config.getini("testpaths")
    if everything and found != listed:
        raise pytest.UsageError(f"tests/slow.txt names no test with {sorted(listed - found)}")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """After each file, drop compiled programs in time."""
    yield
    drop_programs_in_time()


@pytest.fixture(autouse=True)
def few_programs_of_slow_tests(request):
    """After each slow test, too: a single file of them compiles thousands of programs."""
    yield
    if request.node.get_closest_marker("slow"):
        drop_programs_in_time()


def drop_programs_in_time():
    """Drop compiled programs before XLA crashes, which it does at 65,530 maps of memory.

    They also take memory: without a bound 6 GiB of each process of `make test-slow`.
    """
    process = Path("/proc/self")
    if not process.exists():
        return
    maps = (process / "maps").read_bytes().count(b"\n")
    resident = int((process / "statm").read_text().split()[1]) * resource.getpagesize()
    if maps > MOST_MAPS or resident > MOST_BYTES:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key():
    return jax.random.key(20)


@pytest.fixture
def x64():
    """Float64 for one test; the library itself never changes the precision."""
    with jax.enable_x64(True):
        yield

"""Small runs of experiments from the command line, and their interruption."""

from metastep_lab.catalog import CATALOG
from metastep_lab.cli import invoke
from tests.metastep_lab.cases import TINY


def run(name, directory, *more, settings=None):
    """Run an experiment with settings `field=value`, those of `TINY` if none are given."""
    chosen = TINY[name].split() if settings is None else settings.split()
    flags = [f"--set={setting}" for setting in chosen]
    return invoke(["run", name, *flags, "--out", str(directory), *more], CATALOG)


def interrupted(monkeypatch, module, name, at):
    """Press Ctrl-C in one call of a function, by its number; return the list of all calls."""
    function, calls = getattr(module, name), []

    def counted(*arguments, **more):
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt
        return function(*arguments, **more)

    monkeypatch.setattr(module, name, counted)
    return calls


def same_tables(first, second):
    """Check that two runs have the same tables, byte by byte; return their names."""
    names = [sorted(path.stem for path in (one / "tables").iterdir()) for one in (first, second)]
    assert names[0] == names[1]
    for name in names[0]:
        found = [(one / "tables" / f"{name}.csv").read_bytes() for one in (first, second)]
        assert found[0] == found[1], name
    return names[0]

"""`metastep doctor`: what it says of a machine, and what it need not import."""

import subprocess
import sys

import pytest

from metastep_lab import doctor
from metastep_lab.cli import invoke


@pytest.mark.parametrize(("error", "words"), [(1e-7, "correct"), (1.4, "WRONG")])
def test_doctor_says_what_the_default_kernels_do(monkeypatch, capsys, error, words):
    monkeypatch.setattr(doctor, "error_of_default_kernels", lambda: error)
    assert invoke(["doctor"], ()) == 0
    assert words in capsys.readouterr().out


def test_doctor_imports_nothing_that_it_does_not_use():
    """scikit-learn takes a second; it is found without being imported."""
    code = (
        "import sys; from metastep_lab import doctor; doctor.error_of_default_kernels = lambda: 0.0"
        "; doctor.examine(None); print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines())
    assert "metastep_lab.data.digits" in imported
    assert not imported & {"sklearn", "scipy.stats", "pandas", "matplotlib", "bokeh", "pyarrow"}

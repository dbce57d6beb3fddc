"""`metastep doctor`: versions, devices, precision, and the data sets that are found."""

import os
from pathlib import Path

from rich.text import Text

from metastep.compilation import FLAG, error_of_default_kernels
from metastep_lab import terminal
from metastep_lab.data import available
from metastep_lab.errors import RefusedError
from metastep_lab.runs.environment import check_devices, default_precision, devices, versions


def examine(data: Path | None) -> None:
    """Show versions, devices, precision and the data sets that are found.

    Raises:
        RefusedError: if the given folder of data sets does not exist.
    """
    check_devices()
    try:
        found = available(data)
    except FileNotFoundError as error:
        raise RefusedError(str(error)) from error
    console = terminal.console()
    lines = dict(versions())
    lines["devices"] = ", ".join(devices())
    lines["precision"] = f"{default_precision()} by default"
    lines["kernels"] = _kernels()
    lines["cores"] = str(os.cpu_count())
    lines["folder"] = f"{Path.cwd()} ({'writable' if os.access('.', os.W_OK) else 'read-only'})"
    lines |= {f"data {name}": str(path) if path else "not found" for name, path in found}
    for name, text in lines.items():
        console.print(Text.assemble((f"{name:<16}", "bold"), text), soft_wrap=True)


def _kernels() -> str:
    error = error_of_default_kernels()
    # Correct kernels have an error of about 1e-7, wrong ones above 0.01.
    if error < 1e-3:
        return f"correct (relative error {error:.1e} on the second derivative of a log-sum-exp)"
    return (
        f"jax.jit's own are WRONG here (relative error {error:.2g} on the second derivative of a "
        "log-sum-exp). metastep compiles without them; for your own functions pass "
        f"compiler_options=metastep.compiler_options() to jax.jit, or set {FLAG}"
    )

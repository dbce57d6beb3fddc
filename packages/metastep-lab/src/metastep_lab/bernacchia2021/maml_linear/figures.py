"""The figures of `maml-linear`."""

from collections.abc import Mapping

from metastep_lab.bernacchia2021.measures import gain_panel, loss_panel
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, where

SIZES = "p is the number of parameters, N that of validation examples over all training tasks."


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the figures of the paper, and the gain of every train rate over 0."""
    drawn: dict[str, list[Lines]] = {}
    gains = []
    for setting in record.config.settings():
        sizes = f"p = {setting.dim}, N = {setting.equations}"
        losses, paired = (record.rows(name, figure=setting.figure) for name in ("loss", "paired"))
        panels = drawn.setdefault(f"figure-{setting.figure}", [])
        for panel in ("a", "b") if setting.both_rates else (setting.panel,):
            along = "test_rate" if setting.both_rates and panel == "a" else "train_rate"
            title = f"{setting.figure}{panel}: {sizes}"
            panels.append(loss_panel(where(losses, panel=panel), along, title))
        at, title = {"panel": setting.panel}, f"{setting.figure}{setting.panel}: {sizes}"
        gains.append(gain_panel(where(paired, **at), where(losses, **at), title))
    loss_text = (
        "Expected test loss of MAML on mixed linear regression against an inner learning rate, "
        "that of meta-training (train rate alpha_t) or that of use (test rate alpha_r): exact "
        f"simulation, with two standard errors shaded, and theory. {SIZES}"
    )
    gain_text = (
        "Difference of the test loss to that without an inner step in training, in percent: "
        "simulation, taken run by run, with two standard errors shaded, and theory. Below 0 the "
        f"train rate is better than none. {SIZES}"
    )
    found = {name: (panels, loss_text) for name, panels in drawn.items()}
    found["gain"] = gains, gain_text
    return {
        name: (line_figure(*panels, shared_legend=True), text)
        for name, (panels, text) in found.items()
    }

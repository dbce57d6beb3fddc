"""The figures of `sparse-coding`: Figures 2.1, 2.2 and 2.3, as far as they were run."""

from collections.abc import Mapping

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record
from metastep_lab.wu2022.sparse_coding.published import PUBLISHED
from metastep_lab.wu2022.sparse_coding.settings import like_the_thesis, series

FIGURES = {
    "realization": ("2-1", "learned atoms p'"),
    "scale": ("2-2", "dimension d"),
    "noise": ("2-3", "standard deviation of the noise"),
}
TITLES = {
    "sample": "from held-out samples",
    "local": "from the truth and samples",
    "random": "from random atoms",
}


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw a figure for each quantity that was varied."""
    return {
        f"figure-{number}-{vary}": _figure(record, vary, label)
        for vary, (number, label) in FIGURES.items()
        if vary in record.config.vary
    }


def _figure(record: Record, vary: str, label: str) -> tuple[Figure, str]:
    # The start's curve is in the first panel only, whose legend is that of the figure.
    starts = sorted(record.config.initialization, reverse=True)
    panels = [_panel(record, vary, start, label) for start in starts]
    gaps = series(record, vary)["gap"]
    text = (
        f"Mean recovery error against the {label}, with one standard deviation over "
        f"{record.config.seeds} seeds: how far the true atoms are from the most similar learned "
        "ones, 0 is perfect. Masking hides coordinates and predicts them, the baseline predicts "
        f"what it sees. Masking is lower at {(gaps > 0).sum()} of {len(gaps)} points. The start is "
        "what learning begins with."
    )
    return line_figure(*panels, shared_legend=True), text


def _panel(record: Record, vary: str, start: str, label: str) -> Lines:
    rows = series(record, vary, start)
    printed = PUBLISHED.query("vary == @vary and initialization == @start")
    printed = printed[printed["value"].isin(rows["value"]) & like_the_thesis(record)]
    drawn, bands, published = {}, {}, {}
    for name in ("baseline", "masking"):
        # A single seed has no standard deviation.
        mean, spread = rows[name], rows[f"{name}_spread"].fillna(0)
        drawn[name], bands[name] = (rows["value"], mean), (mean - spread, mean + spread)
        if len(printed):
            published[name] = printed["value"], printed[f"authors_{name}"]
    if start == "sample":
        drawn["start"] = rows["value"], rows["initial"]
    return Lines(
        drawn,
        label,
        "recovery error (1 - |cosine|)",
        TITLES[start],
        bands=bands,
        dashed=published,
        dashed_label="published",
    )

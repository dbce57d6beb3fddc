"""What the table of `sparse-coding` says: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, select
from metastep_lab.wu2022.sparse_coding.published import AUTHORS, EARLIER

VALUE = {
    "realization": "learned atoms p'",
    "scale": "dimension d",
    "noise": "standard deviation of the noise",
}
FIGURE = {"realization": "2.1", "scale": "2.2", "noise": "2.3"}
READING_ERROR = 0.005


class Setting:
    """The seeds of one value and start: errors (seeds,) before and after, by both algorithms."""

    def __init__(self, record: Record, vary: str, value: float, initialization: str):
        where = {"vary": vary, "value": value, "initialization": initialization}
        self.key = vary, value, initialization
        rows = [
            select(record.tables["recovery"], algorithm=name, **where)
            for name in ("baseline", "masking")
        ]
        self.initial = rows[0]["error_initial"]
        self.baseline, self.masking = (row["error"] for row in rows)
        self.gap = self.baseline - self.masking

    def text(self, *columns: np.ndarray) -> str:
        """Write the value and means, as `p' = 400, local: 0.156 / 0.149`."""
        vary, value, initialization = self.key
        symbol = {"realization": "p'", "scale": "d", "noise": "sd"}[vary]
        means = " / ".join(f"{column.mean():.3f}" for column in columns)
        return f"{symbol} = {value:g}, {initialization}: {means}"


def _series(record: Record, vary: str, initialization: str) -> list[Setting]:
    table = select(record.tables["recovery"], vary=vary, initialization=initialization)
    return [Setting(record, vary, value, initialization) for value in np.unique(table["value"])]


def _settings(record: Record, vary: str) -> list[Setting]:
    return [s for start in record.config.initialization for s in _series(record, vary, start)]


def answer(record: Record) -> str:
    """Say how often hiding coordinates helps, and what it gives with the most atoms."""
    atoms = record.config.atoms
    over = [s for s in _settings(record, "realization") if s.key[1] > atoms]
    if not over:
        return f"This run cannot tell: it learns no more atoms than the {atoms} true ones."
    better = sum(bool(s.gap.mean() > 0) for s in over)
    opening = "No, not better" if not better else "Only in part"
    opening = "Better than by predicting what it sees" if better == len(over) else opening
    most = [s for s in over if s.key[1] == max(s.key[1] for s in over)]
    starts = {"sample": "from samples", "local": "from near the truth"}
    found = "; ".join(
        f"{starts[s.key[2]]} {_mean(s.masking)} with hiding, {_mean(s.baseline)} without"
        for s in most
    )
    return (
        f"{opening}: in {better} of {len(over)} settings with more atoms than the truth. With "
        f"{most[0].key[1]:g} for {atoms} true ones, the error of the atoms (1 - |cosine|, 0 is "
        f"perfect) is, started {found}."
    )


def _mean(values: np.ndarray) -> str:
    if values.size == 1:
        return f"{values[0]:.3f} (one seed)"
    return f"{values.mean():.3f}±{values.std(ddof=1) / np.sqrt(values.size):.3f}"


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold the statements of section 2.4 against the table."""
    return (
        *_masking_claims(record),
        *_start_claims(record),
        *_realization_claims(record),
        *_scale_claims(record),
        *_noise_claims(record),
        _values_claim(record, "authors-values", "the authors' published curves", AUTHORS),
        _values_claim(record, "earlier-values", "this project's first implementation", EARLIER),
    )


def _listed(settings: list[Setting]) -> str:
    return "; ".join(s.text(s.baseline, s.masking) for s in settings)


def _gaps(settings: list[Setting]) -> str:
    return "difference: " + "; ".join(s.text(s.gap) for s in settings)


def _wider(record: Record, vary: str) -> bool | None:
    """Return whether the difference is larger at the last value than at the first."""
    series = [_series(record, vary, start) for start in record.config.initialization]
    wider = [bool(s[-1].gap.mean() > s[0].gap.mean()) for s in series if len(s) > 1]
    return all(wider) if wider else None


def _better(settings: list[Setting]) -> bool | None:
    return all(s.gap.mean() > 0 for s in settings) if settings else None


def _masking_claims(record: Record) -> tuple[Claim, ...]:
    everything = [s for vary in VALUE for s in _settings(record, vary)]
    worse = [s for s in everything if s.gap.mean() <= 0]
    over = [s for s in _settings(record, "realization") if s.key[1] > record.config.atoms]
    return (
        Claim(
            "masking-better-everywhere",
            "Section 2.4: masking recovers the dictionary better than the baseline in all "
            "experiments.",
            _better(everything),
            f"{len(worse)} of {len(everything)} settings say otherwise (baseline / masking)"
            + (f": {_listed(worse)}" if worse else ""),
        ),
        Claim(
            "masking-better-over-realized",
            "Figure 2.1: with more learned atoms than true ones masking recovers better, from both "
            "starts.",
            _better(over),
            f"baseline / masking: {_listed(over)}" if over else "needs realizations above atoms",
        ),
    )


def _start_claims(record: Record) -> tuple[Claim, ...]:
    atoms, samples = record.config.atoms, record.config.samples
    over = [s for s in _settings(record, "realization") if s.key[1] > atoms]
    drawn = [s for s in _settings(record, "realization") if s.key[2] == "sample"]
    below = [s for s in drawn if s.key[1] < samples]
    full = [s for s in drawn if s.key[1] == samples]
    improves = all(s.masking.mean() < s.initial.mean() for s in below)
    return (
        Claim(
            "baseline-worsens",
            "Section 2.4.1: for every p' > p and both starts the baseline ends with a larger error "
            "than it starts with.",
            _all_clear([s.baseline - s.initial for s in over]),
            "change of the baseline, mean ± standard error: "
            + "; ".join(f"{s.text()}{_with_error(s.baseline - s.initial)}" for s in over)
            if over
            else "needs realizations above atoms",
        ),
        Claim(
            "masking-improves-samples",
            "Section 2.4.1: from samples, masking ends with a smaller error than it starts with "
            "for every p' except p' = n.",
            improves and all(s.masking.mean() >= s.initial.mean() for s in full)
            if below and full
            else None,
            "start / masking: " + "; ".join(s.text(s.initial, s.masking) for s in drawn)
            if drawn
            else "needs realizations from samples",
        ),
    )


def _with_error(values: np.ndarray) -> str:
    error = np.std(values, ddof=1) / np.sqrt(values.size) if values.size > 1 else np.nan
    return f"{values.mean():+.4f} ± {error:.4f}"


def _all_clear(changes: list[np.ndarray]) -> bool | None:
    """Return whether all means are positive; None where one is within two standard errors of 0."""
    if not changes or min(change.size for change in changes) < 2:
        return None
    scores = [np.mean(x) / (np.std(x, ddof=1) / np.sqrt(x.size)) for x in changes]
    if min(scores) < -2:
        return False
    return True if min(scores) > 2 else None


def _rises(gaps: list[float]) -> bool | None:
    return bool(np.all(np.diff(gaps) > 0)) if len(gaps) > 1 else None


def _realization_claims(record: Record) -> tuple[Claim, ...]:
    local, drawn = (_series(record, "realization", start) for start in ("local", "sample"))
    rising = [_rises([s.gap.mean() for s in series]) for series in (local, drawn) if series]
    means = np.array([(s.baseline.mean(), s.masking.mean()) for s in local]).reshape(-1, 2)
    spread = means.max(axis=0, initial=0) - means.min(axis=0, initial=1)
    twice = [s for s in drawn if s.key[1] in (record.config.atoms, 2 * record.config.atoms)]
    return (
        Claim(
            "gap-grows-with-atoms",
            "Section 2.4.1: the more atoms are learned, the larger the difference between the two.",
            None if None in rising or not rising else all(rising),
            _gaps([*drawn, *local]),
        ),
        Claim(
            "masking-insensitive-to-atoms",
            "Section 2.4.1: from the local start the error of masking is nearly constant (here: "
            "its range over p' is at most a fifth of the baseline's).",
            bool(spread[1] <= 0.2 * spread[0]) if len(local) > 1 else None,
            f"range over p' {spread[0]:.3f} / {spread[1]:.3f} (baseline / masking)",
        ),
        Claim(
            "twice-the-atoms-help",
            "Section 2.4.1: from samples, p' = 2 p recovers better than p' = p with both "
            "algorithms.",
            bool(
                twice[1].baseline.mean() < twice[0].baseline.mean()
                and twice[1].masking.mean() < twice[0].masking.mean()
            )
            if len(twice) == 2
            else None,
            f"baseline / masking: {_listed(twice)}" if twice else "needs p and 2 p",
        ),
    )


def _scale_claims(record: Record) -> tuple[Claim, ...]:
    settings = _settings(record, "scale")
    starts = record.config.initialization
    series = [s for start in starts if len(s := _series(record, "scale", start)) > 1]
    return (
        Claim(
            "masking-better-at-every-scale",
            "Figure 2.2: masking recovers better at every dimension, from both starts.",
            _better(settings),
            f"baseline / masking: {_listed(settings)}" if settings else "scale was not varied",
        ),
        Claim(
            "gap-widens-with-scale",
            "Section 2.4.2: the difference mostly widens with the dimension (here: it is larger at "
            "the largest than at the smallest).",
            _wider(record, "scale"),
            _gaps(settings) if settings else "scale was not varied",
        ),
        Claim(
            "masking-degrades-with-scale",
            "Section 2.4.2: with the scale the error of masking grows, too (here: it is larger at "
            "the largest dimension than at the smallest, from both starts).",
            all(s[-1].masking.mean() > s[0].masking.mean() for s in series) if series else None,
            f"baseline / masking: {_listed(settings)}" if settings else "scale was not varied",
        ),
    )


def _noise_claims(record: Record) -> tuple[Claim, ...]:
    settings = _settings(record, "noise")
    most, least = max(record.config.noises), min(record.config.noises)
    loud = [s for s in settings if s.key[1] >= most / 2]
    quiet = [s for s in settings if s.key[1] == least]
    worst = max((max(s.baseline.mean(), s.masking.mean()) for s in quiet), default=np.nan)
    apart = max((abs(s.gap.mean()) for s in quiet), default=np.nan)
    return (
        Claim(
            "masking-better-at-high-noise",
            "Figure 2.3: in the upper half of the noise levels masking recovers better, from both "
            "starts.",
            _better(loud),
            f"baseline / masking: {_listed(loud)}" if loud else "noise was not varied",
        ),
        Claim(
            "low-noise-tie",
            "Section 2.4.3: at the lowest noise both recover the dictionary nearly perfectly and "
            "equally well (here: errors below 0.05, less than 0.02 apart).",
            bool(worst < 0.05 and apart < 0.02) if quiet else None,
            f"baseline / masking: {_listed(quiet)}" if quiet else "noise was not varied",
        ),
        Claim(
            "gap-grows-with-noise",
            "Section 2.4.3: as the noise grows, so does the difference between the two (here: it "
            "is larger at the highest noise than at the lowest, from both starts).",
            _wider(record, "noise"),
            _gaps(settings) if settings else "noise was not varied",
        ),
    )


def _like_the_thesis(record: Record) -> bool:
    config = record.config
    chosen = config.samples, config.dim, config.atoms, config.n_nonzero, config.epochs
    steps = config.batch_size, config.learning_rate, config.mask_fraction
    return (*chosen, *steps) == (1000, 100, 200, 5, 500, 200, 0.001, 0.1)


def _values_claim(
    record: Record, name: str, source: str, expected: Mapping[tuple, tuple[float, float]]
) -> Claim:
    """Compare with published means; their own seeds scatter as much as ours."""
    text = (
        f"Errors agree with {source} within three standard deviations over seeds and the "
        f"{READING_ERROR} of reading a curve."
    )
    compared = []
    for setting in (s for vary in VALUE for s in _settings(record, vary)):
        for errors, value in zip(
            (setting.baseline, setting.masking), expected.get(setting.key, ()), strict=False
        ):
            if errors.size > 2:
                allowed = 3 * np.std(errors, ddof=1) + READING_ERROR
                compared.append((abs(errors.mean() - value) / allowed, setting, errors, value))
    if not compared or not _like_the_thesis(record):
        reason = "needs the thesis's sizes and at least three seeds"
        return Claim(name, text, None, reason)
    ratio, setting, errors, value = max(compared, key=lambda entry: entry[0])
    outside = sum(entry[0] > 1 for entry in compared)
    return Claim(
        name,
        text,
        bool(outside == 0),
        f"{len(compared)} means compared, {outside} outside; the farthest is {ratio:.2f} of what "
        f"is allowed: {setting.text(errors)} against {value}",
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figures 2.1, 2.2 and 2.3, as far as they were run."""
    return {
        f"figure-{FIGURE[vary].replace('.', '-')}-{vary}": _figure(record, vary)
        for vary in VALUE
        if vary in record.config.vary
    }


def _figure(record: Record, vary: str) -> tuple[Figure, str]:
    panels = []
    # The start's curve is in the first panel only, whose legend is that of the figure.
    for start in sorted(record.config.initialization, reverse=True):
        settings = _series(record, vary, start)
        x = np.array([s.key[1] for s in settings])
        series, bands, published = {}, {}, {}
        for place, name in enumerate(("baseline", "masking")):
            errors = np.array([getattr(s, name) for s in settings])
            mean = errors.mean(axis=1)
            spread = errors.std(axis=1, ddof=1) if errors.shape[1] > 1 else 0 * mean
            series[name], bands[name] = (x, mean), (mean - spread, mean + spread)
            known = [(s.key[1], AUTHORS[s.key][place]) for s in settings if s.key in AUTHORS]
            if known and _like_the_thesis(record):
                published[name] = tuple(np.array(known).T)
        if start == "sample":
            series["start"] = x, np.array([s.initial.mean() for s in settings])
        titles = {"sample": "from held-out samples", "local": "from the truth and samples"}
        panels.append(
            Lines(
                series=series,
                x_label=VALUE[vary],
                y_label="recovery error (1 - |cosine|)",
                title=titles[start],
                bands=bands,
                dashed=published,
                dashed_label="published",
            )
        )
    everywhere = _settings(record, vary)
    lower = sum(s.gap.mean() > 0 for s in everywhere)
    text = (
        f"Mean recovery error against the {VALUE[vary]}, with one standard deviation over "
        f"{record.config.seeds} seeds: how far the true atoms are from the most similar learned "
        "ones, 0 is perfect. Masking hides coordinates and predicts them, the baseline predicts "
        f"what it sees. Masking is lower at {lower} of {len(everywhere)} points. The start is "
        "what learning begins with."
    )
    return line_figure(*panels, shared_legend=True), text

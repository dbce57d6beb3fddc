"""The claims of `hessian-overlap`, statements of the thesis, and its answer."""

from collections.abc import Callable

import pandas as pd

from metastep_lab.claims import Numbers, Statement, each, every, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_overlap.output_claims import OUTPUT
from metastep_lab.wu2022.hessian_overlap.reading import (
    FAILED,
    hidden,
    is_true,
    layers,
    mean_curve,
    needs_hidden,
    peaks,
    satisfying,
)

NARROW = "F-100-8"
EARLY = "F-200^2"
NEAR = "abs(place / outputs - 1) <= 0.1"
PLACE = "{model} {layer} at {place} ({least:g} to {most:g} in {pairs} pairs) of m = {outputs}"


def answer(record: Record) -> str:
    """Say in how many hidden layers the peak is at m, and how high it is."""
    rows = hidden(record)
    if not is_true(record) or not len(rows):
        return f"This run cannot tell: it {needs_hidden(record)}."
    near = rows.eval(NEAR)
    found = (
        f"{yes_or_no(near.tolist())}. The overlap of the leading eigenspaces of independently "
        f"trained networks is largest within 10 % of the number of outputs in {near.sum()} of "
        f"{len(near)} hidden layers, there between {span(rows['height'], '.2f')}"
    )
    alone = rows["alone"].sum()
    return f"{found}. The condition under which the theorem predicts this holds in {alone} of them."


def _expected(record: Record) -> Frame:
    """Return the hidden layers without those that the thesis counts as failed cases."""
    rows = hidden(record)
    return rows[[pair not in FAILED for pair in zip(rows["model"], rows["layer"], strict=True)]]


def _theorem(id: str, text: str, condition: str, evidence: str) -> Statement:
    """Return a statement about the layers whose pairs satisfy the condition of Theorem C.7.1."""
    return Statement(
        id,
        f"Theorem C.7.1, hidden layers in which all pairs satisfy its condition: {text}",
        lacks=lacking(
            "has no hidden layer in which all pairs satisfy the condition",
            lambda record: is_true(record) and satisfying(record),
        ),
        measure=satisfying,
        verdict=every(condition),
        evidence=each(evidence),
        reasons={
            False: "The theorem takes the product for H, and E[M] of two networks for unrelated."
        },
    )


def _failing(record: Record) -> Frame:
    """Return the hidden layers whose pairs fail the condition, with the overlaps around `reach`."""
    rows = hidden(record)[lambda rows: ~rows["alone"].astype(bool)]
    curves = [
        mean_curve(record, row.model, row.layer)[[0, row.reach - 1, 2 * row.reach - 1]]
        for row in rows.astype({"reach": int}).itertuples()
    ]
    names = ["first", "at_reach", "after"]
    return rows.assign(**pd.DataFrame(curves, rows.index, names)) if len(rows) else rows


def _most(condition: str) -> Callable[[Frame], bool | None]:
    """Return the verdict whether a condition holds in more than half of the rows."""
    return lambda rows: rows.eval(condition).mean() > 0.5 if len(rows) else None


def _early(record: Record) -> Numbers:
    values = mean_curve(record, EARLY, "fc2")
    # The overlaps at k = 9 and k = 20.
    return {"first": values[8], "later": values[19]}


def _narrow(record: Record) -> Numbers:
    return peaks(record).query("model == @NARROW and layer == 'fc2'").iloc[0].to_dict()


def _normalized(record: Record) -> Frame:
    """Return the overlaps at m with and without batch normalization, hidden layers behind one."""
    rows = peaks(record).query("not last").set_index(["model", "layer"])["at_outputs"]
    found = []
    for model in _with_and_without(record):
        for layer in layers(record, model)[1:-1]:
            found.append((model, layer, rows[model, layer], rows[f"{model}-BN", layer]))
    return pd.DataFrame(found, columns="model layer plain normalized".split())


def _with_and_without(record: Record) -> list[str]:
    models = record.config.model
    return [one for one in models if is_true(record) and f"{one}-BN" in models]


def _settings(record: Record) -> Frame:
    """Return the peaks of pairs of one setting and of two, hidden layers without normalization."""
    networks = record.frames["networks"].set_index(["model", "network"])
    setting = networks[["step_size", "momentum", "weight_decay"]].agg(tuple, axis=1)
    overlaps = record.frames["overlaps"].merge(
        hidden(record)[["model", "layer", "outputs"]], on=["model", "layer"]
    )
    of = lambda column: [
        setting[place] for place in zip(overlaps["model"], overlaps[column], strict=True)
    ]
    same = [a == b for a, b in zip(of("first"), of("second"), strict=True)]
    by = ["model", "layer", "outputs"]
    curves = overlaps.assign(same=same).groupby([*by, "same", "index"], sort=False)["overlap"]
    means = curves.mean().reset_index()
    best = means.loc[means.groupby([*by, "same"], sort=False)["overlap"].idxmax()]
    wide = best.set_index([*by, "same"])[["index", "overlap"]].unstack("same")
    # `unstack` sorts: pairs of two settings (False) are before those of one.
    wide.columns = ["place_other", "place_own", "height_other", "height_own"]
    return wide.reset_index()


def _several(record: Record) -> bool:
    several = len({*record.config.descents()}) > 1
    return several and needs_hidden(record) is None


def _conditions(*models: str) -> Callable[[Record], bool]:
    return lambda record: is_true(record) and {*models} <= {*record.config.model}


CLAIMS = (
    Statement(
        "peak-place",
        "Figures 4.1a, 4.4 and C.2, Appendix C.6.2: the overlap peaks at the output dimension m "
        "(here: the largest mean over pairs within 10 % of m) in most hidden layers (more than "
        "half), without those that the thesis itself shows as exceptions.",
        lacks=needs_hidden,
        measure=_expected,
        verdict=_most(NEAR),
        evidence=each(PLACE),
        reasons={
            False: "Only the first eigenvalues of E[M], about as many as the classes less one, are "
            "large enough for the condition of Theorem C.7.1; after them the overlap rises "
            "slowly, beyond m."
        },
    ),
    _theorem("theorem-place", "the peak is at m (here: within 10 %).", NEAR, PLACE),
    _theorem(
        "theorem-height",
        "the overlap at m is (t_1 . t_2)^2 (here: within 25 %).",
        "abs(at_outputs / alignment - 1) <= 0.25",
        "{model} {layer}: {at_outputs:.3f}, predicted {alignment:.3f}±{spread:.3f}",
    ),
    _theorem(
        "theorem-slope",
        "up to m it grows as k / m times that (here: slope within 25 %).",
        "abs(slope / alignment - 1) <= 0.25",
        "{model} {layer}: {slope:.3f} / m, predicted {alignment:.3f} / m",
    ),
    _theorem(
        "falls-after-m",
        "beyond m the overlap decreases (C.7.2; here: at 2 m below two thirds of the peak).",
        "later < 2 / 3 * height",
        "{model} {layer}: {height:.3f} at {place}, {later:.3f} at 2 m",
    ),
    Statement(
        "reach",
        "Appendix C.7.2, Figure C.19: where the condition fails the overlap grows up to the number "
        "j of eigenvalues with tau_j gamma_1 > tau_1 gamma_2, and falls after it (here: larger at "
        "j than at 1, and lower at 2 j), hidden layers.",
        lacks=lacking(
            "has no hidden layer whose pairs fail the condition",
            lambda record: is_true(record) and _failing(record),
        ),
        measure=_failing,
        verdict=every("first <= at_reach and after < at_reach"),
        evidence=each(
            "{model} {layer}: {first:.4f} at 1, {at_reach:.4f} at {reach:g}, {after:.4f} at twice "
            "that, {at_outputs:.4f} at m = {outputs}"
        ),
        reasons={
            False: "In the first layer the networks have the same inputs: the later eigenvectors "
            "of E[x x^T] are shared, too, and the overlap stays level where it should fall. "
            "In other layers it goes on rising where the eigenvalue after the j-th nearly "
            "satisfies the condition, as in LeNet5 after little training."
        },
    ),
    Statement(
        "product-predicts-peak",
        "Appendix C.7.2: the Kronecker factorization predicts where the condition fails (here: the "
        "overlap of two products has its peak within 10 % of that of the Hessians, in every hidden "
        "layer).",
        lacks=needs_hidden,
        measure=hidden,
        verdict=every("abs(product / place - 1) <= 0.1"),
        evidence=each("{model} {layer}: at {place}, by the products at {product}"),
        reasons={
            False: "In convolutions the product is not exact; a curve that is nearly level "
            "has its peak where noise puts it."
        },
    ),
    *OUTPUT,
    Statement(
        "early-peak",
        "Appendix C.7.2, Figure C.19: in fc2 of F-200^2 the overlap does not grow up to the output "
        "dimension: it is about 0.012 at k = 9 (here: within 0.004), and lower at 20.",
        lacks=lacking(
            "needs F-200^2 on MNIST and true labels",
            lambda record: _conditions(EARLY)(record) and record.config.dataset == "mnist",
        ),
        measure=_early,
        verdict=lambda found: (
            abs(found["first"] - 0.012) < 0.004 and found["later"] < found["first"]
        ),
        evidence="{first:.4f}, then {later:.4f}",
        reasons={False: "The thesis has 60000 images and 1000 epochs; see how many this run has."},
    ),
    Statement(
        "narrow-peak",
        "Not in the thesis: in a layer of m = 8 units the overlap has its peak at the number of "
        "live units (6 to 8), more than 1.5 times as high as at k = 16.",
        lacks=lacking(f"needs {NARROW} and true labels", _conditions(NARROW)),
        measure=_narrow,
        verdict=lambda found: 6 <= found["place"] <= 8 and found["height"] > 1.5 * found["later"],
        evidence="{height:.3f} at k = {place}, {later:.3f} at 16; predicted for k = 8 is "
        "{alignment:.3f}±{spread:.3f}",
        reasons={False: "Where more units are never active, the peak is earlier and lower."},
    ),
    Statement(
        "batch-normalization",
        "Figure C.23: behind batch normalization the peak disappears (here: the overlap at m is "
        "less than half of that without), hidden layers but the first.",
        lacks=lacking("needs a network with and without it, true labels", _with_and_without),
        measure=_normalized,
        verdict=every("normalized < plain / 2"),
        evidence=each("{model} {layer}: {plain:.3f} without, {normalized:.3f} with"),
        reasons={False: "The bar is ours; Figure C.23 is a picture of LeNet5-BN on CIFAR-10."},
    ),
    Statement(
        "settings",
        "Figure C.2: the pattern of the overlap is preserved between networks trained with other "
        "step sizes, momentum and weight decay (here: the peak of pairs of two settings is within "
        "10 % of that of one setting, its height within 25 %), hidden layers.",
        lacks=lacking("needs two settings, true labels and hidden layers to judge", _several),
        measure=_settings,
        verdict=every(
            "abs(place_other / place_own - 1) <= 0.1 and abs(height_other / height_own - 1) <= 0.25"
        ),
        evidence=each(
            "{model} {layer} (m = {outputs}): one setting {height_own:.3f} at {place_own:g}, two "
            "{height_other:.3f} at {place_other:g}"
        ),
        reasons={
            False: "The bars are ours: the thesis says that the pattern is clearly preserved in "
            "the mean over 120 pairs."
        },
    ),
)

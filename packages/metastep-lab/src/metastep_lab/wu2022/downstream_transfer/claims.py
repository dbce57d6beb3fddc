"""The claims of `downstream-transfer`, the theorems of chapter 3, and its answer."""

import numpy as np

from metastep_lab.claims import Numbers, Statement
from metastep_lab.tables import Frame, Record
from metastep_lab.theory.transfer import EXACT_CONSTANT, PRINTED_CONSTANT, PROVEN_CONSTANT

EXACT = 1e-12  # allowed rounding error of an exact construction
LITTLE = 0.1  # nats of divergence
BROKEN = 0.75  # below this agreement the decisions of a head are not those of the teacher
ORDINARY = ("less trained", "perturbed")  # students without artificial shifts


def heads(record: Record, family: str, logits: str, fitted_on: str = "teacher") -> Frame:
    """Return the rows of `accuracy` of a family and a kind of head, from the weakest change on."""
    rows = record.frames["accuracy"]
    chosen = (
        (rows["family"] == family) & (rows["logits"] == logits) & (rows["fitted_on"] == fitted_on)
    )
    return rows[chosen].sort_values("strength", kind="stable")


def answer(record: Record) -> str:
    """Say the effect on a head of changes with a small divergence, and the effect of an anchor."""
    words, broken = [], 0
    for family, change in (
        ("shifted", "all scores of words move together"),
        ("silenced", "words of one class are lowered"),
    ):
        raw, anchored = (heads(record, family, logits).iloc[-1] for logits in ("raw", "anchored"))
        divergence = raw["divergence"]
        cost = "no divergence" if divergence < EXACT else f"{divergence:.2g} nats"
        broken += bool(raw["agreement"] < BROKEN and divergence < LITTLE)
        words.append(
            f"{raw['accuracy']:.3f} once {change} ({cost}; anchored scores "
            f"{anchored['accuracy']:.3f})"
        )
    opening = {0: "Yes, as far as this run shows", 1: "Not always", 2: "No"}[broken]
    before = heads(record, "teacher", "raw")["accuracy"].iloc[0]
    return (
        f"{opening}. A classifier that is right on {before:.3f} of the held-out lines with one "
        f"model's scores of words is right on {', and on '.join(words)}. In brackets is how far "
        "the predictions of words move apart."
    )


def _silencing(record: Record) -> Numbers:
    rows = record.frames["counterexample"].query("theorem == '3.3.1'")
    text = rows.query("model == 'text'")
    strongest = text.loc[text["shift"].idxmax()]
    return {
        **rows[["closed_form_error", "head_error", "over_bound"]].max(),
        "change": rows["anchored_change"].fillna(0).max(),
        "cases": len(rows),
        **strongest[["shift", "divergence"]],
    }


def _shifting(record: Record) -> Numbers:
    rows = record.frames["counterexample"].query("theorem == '3.3.2'")
    return {**rows[["divergence", "head_error", "anchored_change"]].max(), "models": len(rows)}


def _constant(record: Record) -> Numbers:
    rows = record.frames["constant"]
    needed = rows.groupby("error_ratio")["needed"].max()
    return {
        "exact": needed.loc[0.0],
        "anchored": needed.iloc[-1],
        "needed": needed.max(),
        "lemma": rows["exact"].max(),
    }


def _bound(record: Record) -> Numbers:
    """Return the bounds and errors of the synthetic pairs that meet the assumptions."""
    rows = record.frames["bound"]
    met = rows.query("failing == 'none'")
    wrong, printed = met.query("error > 0"), met.query("printed < 1")
    return {
        "pairs": len(rows),
        "met": len(met),
        "wrong": len(wrong),
        "above": (met["error"] > met["printed"]).sum(),
        "needed": met["needed"].max(),
        "ratio": min(wrong["proven"] / wrong["error"], default=np.inf),
        "printed": len(printed),
        "printed_wrong": (printed["error"] > 0).sum(),
        "useful": (met["proven"] < 1).sum(),
        "limit": max(printed["divergence"], default=0.0),
        "erring": min(wrong["divergence"], default=np.inf),
        **met[["normalized_margin", "bulk_probability"]].max().fillna(0),
    }


def _bound_holds(found: Numbers) -> bool | None:
    if found["above"]:
        return False
    return True if found["printed"] else None


def _assumptions(record: Record) -> Numbers:
    rows = record.frames["assumptions"].query("family == 'teacher' and task == 'sure'")
    linear = rows.query("assumption == 'linear-approximation'")
    best = linear.loc[(linear["value"] / linear["limit"]).idxmin()]
    failing = sorted({*rows.query("holds == 0")["assumption"]})
    return {"failing": ", ".join(failing) or "none", **best[["value", "top", "limit"]]}


def _least_bound(record: Record) -> Numbers:
    """Return the row of `text_bound` with the least bound, of all students except the teacher."""
    # The teacher as its own student has divergence 0 and with it a bound of 0.
    rows = record.frames["text_bound"].query("family != 'teacher' and task == 'sure'")
    return dict(rows.loc[rows["printed"].idxmin()])


def _shifted(record: Record) -> Numbers:
    last = heads(record, "shifted", "raw").iloc[-1]
    refitted = heads(record, "shifted", "raw", "student").iloc[-1]
    most = heads(record, "shifted", "raw")["divergence"].max()
    return {**last, "most": most, "refitted": refitted["agreement"]}


def _shifted_anchored(record: Record) -> Numbers:
    rows = heads(record, "shifted", "anchored")
    return {"least": rows["agreement"].min(), "accuracy": rows["accuracy"].iloc[-1]}


def _silenced(record: Record) -> Numbers:
    raw, anchored = (heads(record, "silenced", logits).iloc[-1] for logits in ("raw", "anchored"))
    return {**raw, "anchored": anchored["agreement"]}


def _by_distance(record: Record) -> Numbers:
    """Return whether the nearest student of each family agrees more than its farthest."""
    falls, listed = [], []
    for family in ORDINARY:
        rows = heads(record, family, "anchored")
        divergence, agreement = rows["divergence"], rows["agreement"]
        falls.append(agreement.iloc[divergence.argmin()] > agreement.iloc[divergence.argmax()])
        pairs = zip(divergence, agreement, strict=True)
        points = ", ".join(f"{y:.3f} at {x:.2g} nats" for x, y in pairs)
        listed.append(f"{family} {points}")
    return {"falls": falls, "listed": "; ".join(listed)}


def _anchored_gains(record: Record) -> Numbers:
    """Return the gain in agreement of ordinary students by anchored logits."""
    gains, listed = [], []
    for family in ORDINARY:
        raw, anchored = (
            heads(record, family, logits)["agreement"].to_numpy() for logits in ("raw", "anchored")
        )
        gains += [*(anchored - raw)]
        listed.append(f"{family} {raw.mean():.3f} / {anchored.mean():.3f}")
    better = sum(gain > 0 for gain in gains)
    return {"better": better, "students": len(gains), "listed": ", ".join(listed)}


CLAIMS = (
    Statement(
        "silencing-is-cheap",
        "Theorem 3.3.1: lowering the logit of a word of probability p by s costs at most 2 s p of "
        "divergence and changes a linear head by -s c. (The misprint in Eq. B.8 does not matter, "
        "and s p suffices.) A thresholded head ignores the change of a word below its threshold.",
        measure=_silencing,
        verdict=lambda found: (
            max(found["closed_form_error"], found["head_error"], found["change"]) < EXACT
            and found["over_bound"] <= 0.5
        ),
        evidence="{cases} cases: largest error of the closed form {closed_form_error:.1e}, of the "
        "head {head_error:.1e}; largest divergence / (2 s p) {over_bound:.4f}; largest change of "
        "a thresholded, anchored head where the word was inactive {change:.1e}. On the text, s = "
        "{shift:g} costs at most {divergence:.2g} nats.",
    ),
    Statement(
        "shifts-are-free",
        "Theorem 3.3.2: a shift of all logits changes no probability and makes a thresholded head "
        "on raw logits exactly 0; on anchored logits it changes nothing.",
        measure=_shifting,
        verdict=lambda found: (
            max(found["divergence"], found["anchored_change"]) < EXACT and found["head_error"] == 0
        ),
        evidence="{models} models: largest divergence {divergence:.1e}, largest score of the "
        "raw head {head_error:g}, largest change of the anchored head {anchored_change:.1e}.",
    ),
    Statement(
        "constant",
        "Theorem 3.5.7 prints the constant 288 and proves 1152 (Pinsker's inequality is used for "
        "twice the total variation). Not in the thesis: the worst student known needs far less "
        "than either, and the lemma minimized exactly gives 512.",
        measure=_constant,
        verdict=lambda found: (
            found["needed"] <= PRINTED_CONSTANT and found["lemma"] <= EXACT_CONSTANT * (1 + EXACT)
        ),
        evidence="needed at most {exact:.3f} with exact anchors and {anchored:.2f} with anchors "
        "wrong by Gamma / 8, both for Gamma -> 0; the lemma gives at most {lemma:.1f}.",
    ),
    Statement(
        "bound-holds",
        "Theorem 3.5.7: where its assumptions hold, the error is at most the bound, with the "
        "constant as printed, too. Where that exceeds 1 the statement is vacuous; it could "
        "fail where it is below 1.",
        measure=_bound,
        verdict=_bound_holds,
        evidence="{met} of {pairs} synthetic pairs meet the assumptions, {wrong} of them with "
        f"errors; largest constant needed {{needed:.2g}} (proven {PROVEN_CONSTANT:g}), least "
        "proven bound / error {ratio:.3g}. The printed bound is below 1 for {printed} pairs, "
        "{printed_wrong} of them with errors.",
        reasons={None: "No printed bound of these pairs is below 1."},
    ),
    Statement(
        "bound-is-informative",
        "Not in the thesis: the bound, with the constant as printed, says something (is below 1) "
        "for some student that makes errors.",
        measure=_bound,
        verdict=lambda found: found["printed_wrong"] > 0 if found["met"] else None,
        evidence="it is below 1 for {printed} pairs (as proven, for {useful}), up to a divergence "
        "of {limit:.1e} nats; students make errors from {erring:.1e} nats on. The largest margin "
        "and bulk probability are {normalized_margin:.2g} and {bulk_probability:.2g}.",
        reasons={
            False: f"Its constant is {PRINTED_CONSTANT:g}: students whose bound is below 1 make no "
            "errors.",
            None: "No synthetic pair meets the assumptions.",
        },
    ),
    Statement(
        "assumptions-hold",
        "The assumptions of Theorem 3.5.7 hold for a language model: here for the teacher as "
        "its own student, with the anchor of least largest error, on the half of the examples "
        "that it is most sure about.",
        measure=_assumptions,
        verdict=lambda found: found["failing"] == "none",
        evidence="failing: {failing}. Anchors miss log Z_bulk by up to {value:.3g} nats without "
        "the {top:g} most probable words, and Gamma / 8 is {limit:.3g}.",
        reasons={False: "The anchor of a small model misses log Z_bulk by more than this allows."},
    ),
    Statement(
        "text-bound-is-informative",
        "Not in the thesis: granted the assumptions, the bound of Theorem 3.5.7, with the constant "
        "as printed, says something for students of a language model (is below 1).",
        measure=_least_bound,
        verdict=lambda row: row["printed"] < 1,
        evidence="least bound {printed:.2g} ({proven:.2g} as proven), at a divergence of "
        "{divergence:.2g} nats, mu {overlap:.2g}, p_b {bulk_probability:.2g}, Gamma "
        "{normalized_margin:.2g}; the error there is {error:.3f}.",
        reasons={False: "It divides by mu p_b^2 Gamma^2, which is small for text."},
    ),
    Statement(
        "raw-heads-break",
        "Section 3.3.2 on a language model: shifts of the logits, different at every state, "
        f"cost no divergence and ruin the head on raw logits (here: agreement below {BROKEN}).",
        measure=_shifted,
        verdict=lambda found: found["most"] < EXACT and found["agreement"] < BROKEN,
        evidence="shifts of {strength:g} nats: divergence {divergence:.1e}, agreement with the "
        "teacher {agreement:.3f} (fitted again on the shifted logits {refitted:.3f}), accuracy "
        "{accuracy:.3f}.",
    ),
    Statement(
        "anchored-heads-do-not",
        "Section 3.5: the head on anchored logits decides as the teacher's does, however large "
        "the shifts are (here: agreement of at least 0.99).",
        measure=_shifted_anchored,
        verdict=lambda found: found["least"] >= 0.99,
        evidence="agreement at least {least:.4f}, accuracy {accuracy:.3f}.",
    ),
    Statement(
        "silenced-words-break-both",
        "Section 3.3.1 on a language model: lowering the words of one class, rare as they are in "
        f"the text, costs little divergence (here: below {LITTLE} nats) and breaks the head "
        f"(agreement below {BROKEN}); an anchor does not help.",
        measure=_silenced,
        verdict=lambda found: (
            max(found["agreement"], found["anchored"]) < BROKEN and found["divergence"] < LITTLE
        ),
        evidence="lowered by {strength:g} nats: divergence {divergence:.3g} nats, agreement "
        "{agreement:.3f} (raw) and {anchored:.3f} (anchored).",
        reasons={False: "The divergence is about the shift times the words' share of the text."},
    ),
    Statement(
        "errors-grow-with-divergence",
        "The subject of Theorem 3.5.7: the farther a student is from its teacher, the less the "
        "teacher's head agrees on it (nearest student against the farthest).",
        measure=_by_distance,
        verdict=lambda found: all(found["falls"]),
        evidence="agreement of the anchored head by divergence: {listed}",
    ),
    Statement(
        "anchors-help-ordinary-students",
        "Not in the thesis: also for students without artificial shifts the teacher's head "
        "transfers better on anchored logits, for each of them.",
        measure=_anchored_gains,
        verdict=lambda found: found["better"] == found["students"],
        evidence="mean agreement raw / anchored: {listed}; anchored is better for {better} of "
        "{students} students.",
        reasons={False: "They have no shared shift to remove; the anchor adds its error."},
    ),
)

"""A small run with a given model, its claims and figures; interruption."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from metastep_lab import cli
from metastep_lab.claims import evaluate
from metastep_lab.runs.running import Request, execute, read_record
from metastep_lab.tables import Record, columns
from metastep_lab.wu2022.anchor_vectors import models as models
from metastep_lab.wu2022.anchor_vectors.experiment import EXPERIMENT, Config
from metastep_lab.wu2022.anchor_vectors.reading import shown_bulk
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

SMALL = Config(
    text="embedded",
    models=("gru",),
    seeds=1,
    tokens=1300,
    vocabulary=150,
    hidden=8,
    steps=2 * models.SEGMENT,
    batch=4,
    context=16,
    top=(0, 5, 20),
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A tiny random GPT-2 with a tokenizer of three words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    transformers.logging.disable_progress_bar()
    directory = tmp_path_factory.mktemp("given") / "tiny-gpt2"
    sizes = {"vocab_size": 40, "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    words = {"other": 0, "the": 1, "of": 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="other"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="other")
    fast.save_pretrained(directory)
    return directory


WITHOUT_FIGURES = replace(EXPERIMENT, figures=lambda record: {})


def request(experiment, directory, config, resume=False):
    return Request(experiment, config, "quick", (), 0, directory, resume=resume)


def test_a_small_run_and_the_same_bits_after_an_interruption(tmp_path, given):
    config = replace(SMALL, directories=(str(given),))

    def keep(done, total, what):
        """Keep what a process that is killed half-way would leave."""
        if done == models.SEGMENT and not (tmp_path / "parts").exists():
            shutil.copytree(tmp_path / "whole", tmp_path / "parts")

    execute(request(EXPERIMENT, tmp_path / "whole", config), show=keep)
    execute(request(WITHOUT_FIGURES, tmp_path / "parts", config, resume=True))
    tables = sorted(path.name for path in (tmp_path / "whole" / "tables").iterdir())
    assert len(tables) == 9
    for name in tables:
        whole, parts = (tmp_path / run / "tables" / name for run in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes(), name

    record = read_record(tmp_path / "whole", EXPERIMENT)
    found = record.tables["models"]
    assert list(found["model"]) == ["tiny-gpt2", "gru-0", "gru-0-untrained"]
    np.testing.assert_array_equal(found["tokens"], [1300, 1296, 1296])
    assert found["perplexity"][1] < 100 < found["perplexity"][2]  # of 150 words
    assert list(record.tables["mse"]["top"]) == [0, 5, 20] * 3
    claims = {claim.id: claim for claim in evaluate(EXPERIMENT.claims, record)}
    assert claims.keys() >= EXPERIMENT.reproducible
    assert all(claim.evidence for claim in claims.values())
    assert "GPT-2 XL 0.7716 / 0.0648 (11.9)" in claims["bulk-is-linear"].evidence
    assert claims["untrained-control"].holds
    for name, (_, text) in EXPERIMENT.figures(record).items():
        assert text and (tmp_path / "whole" / "figures" / f"{name}.png").stat().st_size > 1000


MODELS = ("given", "gru-0", "gru-0-untrained")
MSE = "model top mse r2 held_out_mse variance"


def handmade():
    """Return a record of a given model with two clusters, a trained and an untrained one."""
    trained = [name for name in MODELS if not name.endswith("-untrained")]
    fits = [
        (name, k, 0.8 / (1 + k), 0.8 + k / 1000, 1 / (1 + k), 4.0)
        for name in trained
        for k in (0, 10, 100)
    ]
    fits += [("gru-0-untrained", k, 0.5, 0.1, 0.5, 0.6) for k in (0, 10, 100)]
    tables = {
        "models": columns("model architecture trained", [
            ("given", "hugging-face", 1), ("gru-0", "gru", 1), ("gru-0-untrained", "gru", 0)]),
        "mse": columns(MSE, fits),
        "every_position": columns(MSE, fits),
        "dictionary": columns("model top_energy second_ratio mean_cosine norm_low norm_high",
                              [(name, 0.6, 0.3, 0.3, 1.0, 2.0) for name in MODELS]),
        "partition": columns("model top low high",
                             [(name, k, 1.0, 3.0) for name in MODELS for k in (0, 10, 100)]),
        "clusters": columns("model cluster top mse",
                            [("given", i, k, 1e-4) for i in (0, 1) for k in (0, 10, 100)]),
    }  # fmt: skip
    return Record(Config(vocabulary=150, top=(0, 10, 100)), tables, {}, {})


SPOILED = (
    ("bulk-is-linear", "every_position", "model == 'gru-0' and top == 100", {"mse": 0.1}),
    ("bulk-is-linear-with-context", "mse", "model == 'gru-0' and top == 100", {"mse": 0.1}),
    ("error-falls-with-k", "every_position", "model == 'given' and top == 10", {"mse": 0.9}),
    ("log-z-is-not-linear", "every_position", "model == 'given' and top == 0", {"r2": 0.95}),
    ("log-z-is-not-linear-with-context", "mse", "model == 'given' and top == 0", {"r2": 0.95}),
    ("better-beyond-the-variance", "mse", "model == 'given' and top == 100", {"r2": 0.7}),
    ("anchors-generalize", "mse", "model == 'gru-0' and top == 100", {"held_out_mse": 0.02}),
    ("untrained-control", "mse", "model == 'gru-0-untrained' and top == 100", {"mse": 0.1}),
    ("context-is-needed", "every_position", "top == 100", {"mse": 1e-3}),
    ("one-dominant-direction", "dictionary", "model == 'gru-0'", {"second_ratio": 0.6}),
    ("words-in-a-cone", "dictionary", "model == 'gru-0'", {"mean_cosine": 0.05}),
    ("words-in-a-cone", "dictionary", "model == 'gru-0'", {"norm_high": 6.0}),
    ("partition-varies", "partition", "model == 'given' and top == 100", {"high": 1.5}),
    ("partition-varies", "partition", "model == 'given' and top == 0", {"high": 1.5}),
    ("two-anchors-of-gpt-2", "clusters", "cluster == 1", {"mse": 0.5}),
)


def test_every_claim_can_hold_and_fail():
    good = changed(handmade(), "dictionary", norm_high=4.5)
    said = {claim.id: claim.evidence for claim in evaluate(EXPERIMENT.claims, good)}
    assert "gru-0 0.3 / 4.5" in said["words-in-a-cone"]
    without_context = changed(good, "every_position", "model == 'gru-0' and top == 100", mse=0.4)
    check_every_claim(EXPERIMENT, SPOILED, good, without_context)
    found = verdicts(EXPERIMENT, changed(good, "mse", held_out_mse=np.nan))
    assert found["anchors-generalize"] is None
    nothing = verdicts(EXPERIMENT, changed(good, "models", trained=0))
    assert {nothing.pop("untrained-control"), nothing.pop("two-anchors-of-gpt-2")} == {False, True}
    assert set(nothing.values()) == {None}


def test_models_that_table_3_1_leaves_out_are_exempt():
    named = {"given": "gpt2", "gru-0": "opt-125m"}
    renamed = handmade()
    for table in ("models", "mse", "every_position"):
        renamed = changed(renamed, table, model=lambda rows: rows["model"].replace(named))
    rising = changed(renamed, "mse", "model == 'gpt2'", mse=lambda rows: rows["top"] + 1.0)
    rising = changed(rising, "every_position", "model == 'gpt2'", mse=1.0)
    names = ("bulk-is-linear", "bulk-is-linear-with-context", "error-falls-with-k")
    assert set(verdicts(EXPERIMENT, rising, *names).values()) == {True}
    other = changed(rising, "models", "model == 'opt-125m'", trained=0)
    assert set(verdicts(EXPERIMENT, other, *names).values()) == {None}


def test_words_are_numbered_by_their_frequency():
    text = models.read_text("embedded", None)
    words = models.encode(text, 150)
    assert [side.max() < 150 and side.min() == 0 for side in words] == [True, True]
    # The most frequent word has the number 1; the parts keep their lengths.
    assert [len(side) for side in words] == [len(text.train), len(text.test)]
    assert np.argmax(np.bincount(words[0][words[0] > 0])) == 1


def test_texts(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("One two, one two. " * 10)
    text = models.read_text(str(path), None)
    assert text.train[:5] == ["one", "two", ",", "one", "two"] and len(text.test) == 12
    path.write_bytes(b"\xff\xfe\xfd")
    for name in (str(path), str(tmp_path), "no-such-file"):
        with pytest.raises(ValueError, match=r"text is .* allowed are embedded, wikitext2"):
            models.read_text(name, None)
    for part, name in (("test", "train"), ("valid", "test")):
        (tmp_path / f"wikitext2-{part}.txt").write_text(f" {name} here\n")
    text = models.read_text("wikitext2", tmp_path)
    assert (text.train, text.test) == (["train", "here", "<eos>"], ["test", "here", "<eos>"])
    # The file of the validation part was written with the word of its role.
    assert text.given == text.train


def test_bad_settings_leave_nothing_behind(tmp_path, capsys):
    settings = ("models=lstm", "vocabulary=100000", "text=nowhere.txt", "directories=nowhere")
    for setting in settings:
        out = tmp_path / "run"
        more = ["--set", "models="] if setting.startswith("directories") else []
        arguments = ["run", "anchor-vectors", "--set", setting, *more, "--out", str(out)]
        assert cli.invoke(arguments, (EXPERIMENT.listing,)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and setting.partition("=")[2] in error
        assert not out.exists()


def test_the_bulk_that_is_shown():
    assert shown_bulk((0, 10, 100, 1000)) == 100 and shown_bulk((0, 10, 50)) == 50

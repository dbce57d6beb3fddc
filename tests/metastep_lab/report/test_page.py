"""The page of a report: its structure, its claims, and damaged input."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from metastep_lab.errors import RunDirectoryError
from metastep_lab.report.page import build_page
from metastep_lab.report.tables import data_table, format_number
from metastep_lab.runs.records import write_table
from metastep_lab.runs.running import Request, execute
from metastep_lab.terminal import format_seconds
from tests.metastep_lab.report.fake_experiment import EXPERIMENT, TRAP, Config

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Fails on tags that are not closed in order; collects what the tests look at."""

    def __init__(self, page):
        super().__init__()
        self.open, self.attributes, self.text, self.headings = [], [], "", []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]


def run(directory, experiment=EXPERIMENT, data=None):
    request = Request(experiment, Config(), "quick", (), 0, directory, data)
    return execute(request)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "walk"
    run(folder)
    write_table(folder, "names", {"who": ["<script>alert(1)</script>", "&amp;"], "n": [1, np.nan]})
    write_table(folder, "long", {"n": np.arange(5000)})
    (folder / "tables" / "<i>by hand.csv").write_text("<u>,v\n1,2\n")
    return folder


@pytest.fixture(scope="module")
def outline(directory):
    return Outline(build_page([directory, directory]))


def test_page_is_well_formed_with_a_hierarchy_of_headings(outline):
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    steps = np.diff(outline.headings)
    assert steps.max() == 1
    assert outline.all("html")[0]["lang"] == "en"
    assert all(cell["scope"] in ("row", "col") for cell in outline.all("th"))


def test_it_answers_the_question_and_says_what_the_columns_mean(outline, directory, tmp_path):
    question, answer = "How far does a walk <go>?", "It took 5 steps & <stopped>."
    assert outline.text.count(answer) == 2
    assert outline.text.index(question) < outline.text.index(answer)
    assert outline.text.count("A small experiment whose state is one sum") == 2
    run(tmp_path / "silent", replace(EXPERIMENT, answer=None))
    silent = Outline(build_page([tmp_path / "silent"]))
    assert question in silent.text
    meaning = "How well a search finds what it looks for"
    assert meaning not in silent.text
    run(tmp_path / "asked", replace(EXPERIMENT, answer=lambda record: "Its F1 score is 1."))
    assert meaning in Outline(build_page([tmp_path / "asked"])).text
    assert not any(attributes.get("class") == "answer" for attributes in silent.all("p"))


def test_identifiers_are_unique_and_links_lead_to_them(outline):
    ids = [attributes["id"] for _, attributes in outline.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [link["href"] for link in outline.all("a")]
    assert "#content" in targets
    assert {target.removeprefix("#") for target in targets} <= set(ids)


def test_nothing_is_fetched(directory):
    page = build_page([directory])
    outline = Outline(page)
    for _, attributes in outline.attributes:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
        assert not any(name.startswith("on") for name in attributes)
    without_code = re.sub("<script.*?</script>", "", page, flags=re.DOTALL)
    assert "://" not in without_code and "@import" not in without_code
    assert outline.all("link") == []
    policy = outline.all("meta")[1]["content"]
    assert policy.startswith("default-src 'none';") and "connect-src" not in policy


def test_scripts_only_where_a_figure_is_interactive(directory, tmp_path):
    assert len(Outline(build_page([directory])).all("script")) == 3
    run(tmp_path)
    (data,) = (tmp_path / "figures").glob("*.json")
    for other in (b'{"bokeh":"0.1","panels":[]}', None):
        data.write_bytes(other) if other else data.unlink()
        outline = Outline(build_page([tmp_path]))
        assert outline.all("script") == [] and len(outline.all("svg")) == 2
        assert "script-src 'none'" in outline.all("meta")[1]["content"]


def test_matrix_shows_every_claim_with_its_verdict(outline):
    signs = [link for link in outline.all("a") if "-claim-" in link["href"]]
    looks = ["holds", "undecided", "does-not-hold"]
    assert [sign["class"] for sign in signs] == 2 * looks
    assert "1 experiment, 6 claims: 2 hold, 2 do not, 2 undecided." in outline.text
    assert "exact: does not hold" in outline.text


def test_a_table_with_numbers_of_the_paper_comes_before_the_claims(directory, tmp_path):
    run(tmp_path)
    write_table(tmp_path, "compared", {"paper": [1.0], "measured": [1.5]})
    text = Outline(build_page([tmp_path])).text
    order = [text.index(words) for words in ("Beside the paper", "compared (", "Claims of fake")]
    assert order == sorted(order) and text.count("compared (") == 1
    assert "Beside the paper" not in Outline(build_page([directory])).text


def test_everything_from_the_run_is_escaped(outline):
    assert "<script>alert(1)</script>" in outline.text
    assert "<i>by hand" in outline.text and "<u>" in outline.text
    assert "How far does a walk <go>?" in outline.text
    assert "Nobody <knows> & cares." in outline.text
    assert outline.all("svg")[0]["aria-label"] == 'A "walk" <b>'


def test_claims_are_told_by_words_and_long_tables_are_cut(outline):
    for words in ("✔ holds", "✘ does not hold", "? undecided", "1 holds, 1 does not, 1 undecided"):
        assert words in outline.text
    assert "(5,000 rows, the first 40 shown; tables/long.csv)" in outline.text
    assert "long: 5,000 rows" in outline.text
    assert "metastep run fake-walk --preset quick --seed 0" in outline.text


def test_page_does_not_name_the_folder_of_the_run(directory, tmp_path):
    run(tmp_path / "run", data=tmp_path)
    page = build_page([tmp_path / "run"])
    assert str(tmp_path) not in page
    assert "--data DATA" in page


def test_runs_that_did_not_end_are_shown_as_such(tmp_path, monkeypatch):
    monkeypatch.setitem(TRAP, "at", 3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "interrupted")
    monkeypatch.setitem(TRAP, "error", RuntimeError("too <big>"))
    with pytest.raises(RuntimeError):
        run(tmp_path / "failed")
    text = Outline(build_page([tmp_path / "interrupted", tmp_path / "failed"])).text
    assert "This run was interrupted" in text and "--resume" in text
    assert "This run failed: RuntimeError: too <big>" in text


def test_missing_picture_and_missing_extras_do_not_break_the_page(tmp_path):
    result = run(tmp_path)
    for path in (tmp_path / "figures").iterdir():
        path.unlink()
    for extra in ("question", "command", "preset"):
        del result[extra]
    (tmp_path / "result.json").write_text(json.dumps({**result, "timing": {}, "environment": {}}))
    assert "The figure Sum figure is missing." in Outline(build_page([tmp_path])).text
    (tmp_path / "figures" / "sum-figure.svg").write_text("<svg><script>alert(1)</script>")
    assert "The figure Sum figure is damaged." in Outline(build_page([tmp_path])).text


def test_damaged_run_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(RunDirectoryError):
        build_page([tmp_path])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (3.0, "3"),
        (1234567.0, "1,234,567"),
        (0.0123456, "0.01235"),
        (0.5, "0.5"),
        (9.9999, "10"),
        (-12.3456, "\N{MINUS SIGN}12.35"),
        (123456.7, "123,457"),
        (1.23456e-7, "1.235e\N{MINUS SIGN}07"),
        (1e12, "1.000e+12"),
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        (float("-inf"), "\N{MINUS SIGN}∞"),
    ],
)
def test_numbers_read_well(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.6, "1 min 0 s"),
        (75, "1 min 15 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_read_well(seconds, text):
    assert format_seconds(seconds) == text


def test_table_without_rows_is_shown():
    assert data_table("t", {"x": np.array([])})["count"] == "0 rows"

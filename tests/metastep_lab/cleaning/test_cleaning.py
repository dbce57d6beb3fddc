"""`metastep clean`: what it finds, writes and refuses."""

import csv
import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_iris

from metastep.sklearn import DifferentFeaturesWarning, HypercleanedClassifier
from metastep_lab.cleaning import command as cleaning
from metastep_lab.cli import invoke

SPECIES = np.array(["setosa", "versicolor", "virginica"])


def flowers(wrong=12):
    """Iris with wrong labels, a category, a text, a gap, and which rows are wrong."""
    inputs, labels = load_iris(return_X_y=True)
    rng = np.random.default_rng(0)
    rows = rng.choice(150, wrong, replace=False)
    given = labels.copy()
    given[rows] = (given[rows] + rng.integers(1, 3, wrong)) % 3
    table = pd.DataFrame(inputs, columns=["a", "b", "c", "d"])
    table["garden"] = np.array(["north", "south"])[rng.integers(2, size=150)]
    notes = np.array(["small and blue", "large and violet", "very large indeed"])[labels]
    table["note"] = [f"{note} number {row} seen" for row, note in enumerate(notes)]
    table["species"] = SPECIES[given]
    return table.astype(object), np.sort(rows)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run `metastep clean` in an empty folder; return its status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = invoke(["clean", *map(str, arguments)], ())
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_table(call, tmp_path):
    table, wrong = flowers()
    table.loc[5, "a"], table.loc[6, "a"], table.loc[7, "garden"] = "", "?", ""
    table.to_csv("flowers.csv", index=False)
    before = (tmp_path / "flowers.csv").read_bytes()
    status, out, err = call("flowers.csv", "--label", "species")
    assert (status, err) == (0, "") and "report.html" in out
    folder = tmp_path / "cleaned" / "flowers"
    assert (tmp_path / "flowers.csv").read_bytes() == before
    names = {"suspects.csv", "weights.csv", "clean.csv", "report.html", "cleaning.json"}
    assert {entry.name for entry in folder.iterdir()} == names
    suspects = pd.read_csv(folder / "suspects.csv")
    assert list(suspects.columns) == ["row", "given", "suggested", "score"]
    found = set(suspects["row"] - 1)
    assert len(found & set(wrong)) >= 10 and len(found) <= 16
    assert list(suspects["given"]) == list(table["species"].iloc[suspects["row"] - 1])
    assert np.all(suspects["given"] != suspects["suggested"])
    assert np.all(np.diff(suspects["score"]) <= 0)
    assert len(pd.read_csv(folder / "weights.csv")) == 150
    # Every cell that is left is as it was.
    lines = before.decode().splitlines()
    kept = [lines[0], *(line for row, line in enumerate(lines[1:]) if row not in found)]
    assert (folder / "clean.csv").read_text().splitlines() == kept
    page = (folder / "report.html").read_text()
    assert "setosa" in page and "4 numeric: a, b, c, d" in page and "1 text: note" in page
    assert "://" not in page
    state = json.loads((folder / "cleaning.json").read_text())
    assert state["status"] == "complete" and state["suspects"] == len(found)
    assert 0.03 < state["share"][0] < 0.15  # .08 of the labels are wrong
    status, _, err = call("flowers.csv", "--label", "species")
    assert status == 2 and "holds this work already (complete)" in err
    assert call("flowers.csv", "--label", "species", "--resume")[0] == 0


def test_a_table_of_another_country(call, tmp_path):
    """Decimal commas are numbers, a column that numbers the rows is none, spellings are named."""
    table, _ = flowers()
    table["id"] = np.arange(100, 250)
    table["a"] = [f"{a + 1000:,.2f}".translate(str.maketrans(",.", ".,")) for a in table["a"]]
    table["species"] = [
        f"{name} " if row % 2 else name for row, name in enumerate(table["species"])
    ]
    table.loc[[1, 2], "species"] = ["SETOSA", "SETOSA"]
    table.to_csv("flowers.csv", index=False, sep=";")
    status, out, err = call("flowers.csv", "--label", "species")
    assert status == 0 and "4 numeric: a, b, c, d" in out and "1 ignored: id" in out
    assert "warning: 'SETOSA' and 'setosa' are different classes" in out + err
    page = (tmp_path / "cleaned" / "flowers" / "report.html").read_text()
    assert "different classes" in page and "&#39;SETOSA&#39; and &#39;setosa&#39;" in page
    given = pd.read_csv(tmp_path / "cleaned" / "flowers" / "suspects.csv")["given"]
    assert set(given) <= {*SPECIES, "SETOSA"}


def test_the_ranking_is_that_of_the_classifier(call, tmp_path):
    table, _ = flowers()
    table.drop(columns=["garden", "note"]).to_csv("flowers.csv", index=False)
    assert call("flowers.csv", "--label", "species", "--out", "out")[0] == 0
    numbers = table[["a", "b", "c", "d"]].to_numpy(float)
    model = HypercleanedClassifier(random_state=0).fit(numbers, table["species"].to_numpy(str))
    suspects, weights = (
        pd.read_csv(tmp_path / "out" / f"{n}.csv") for n in ("suspects", "weights")
    )
    assert list(suspects["row"] - 1) == list(model.suspects_)
    assert list(suspects["suggested"]) == list(model.suggested_labels_[model.suspects_])
    assert np.allclose(weights["score"], model.label_scores_, rtol=0, atol=1e-6)  # of the file
    assert np.allclose(weights["weight"], model.sample_weight_, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["linear", "boosted", "network"])
def test_checked_labels_and_parquet(call, tmp_path, model):
    table, wrong = flowers()
    checked = flowers(0)[0].iloc[::5]
    numeric = dict.fromkeys("abcd", float)
    table.astype(numeric).to_parquet("flowers.parquet")
    checked.astype(numeric).to_parquet("checked.parquet")
    arguments = ["--label", "species", "--validation", "checked.parquet", "--model", model]
    status, _, err = call("flowers.parquet", *arguments, "--out", "out")
    assert (status, err) == (0, "")
    found = set(pd.read_csv(tmp_path / "out" / "suspects.csv")["row"][:12] - 1)
    assert len(found & set(wrong)) >= 9


def test_images(call, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "all").mkdir(parents=True)
    rows = []
    for row in range(60):
        bright = row % 2
        pixels = rng.integers(0, 120, (12, 10, 3)) + 100 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / "all" / f"{row}.png")
        rows.append((f"all/{row}.png", "day" if bright != (row in (8, 31)) else "night"))
    pd.DataFrame(rows, columns=["file", "time"]).to_csv("photos/labels.csv", index=False)
    status, _, err = call("photos", "--label", "time", "--out", "out")
    assert (status, err) == (0, "")
    assert set(pd.read_csv(tmp_path / "out" / "suspects.csv")["row"][:2] - 1) == {8, 31}
    assert 'src="data:image/png;base64' in (tmp_path / "out" / "report.html").read_text()
    assert "inside of photos" in call("photos", "--label", "time", "--out", "photos/o")[2]
    # Also without the first image, and beside a text that is too long for a name of a file.
    table = pd.read_csv("photos/labels.csv")
    table.assign(note="long " * 200).to_csv("photos/labels.csv", index=False)
    for name in ("7.png", "0.png"):
        os.remove(f"photos/all/{name}")
        assert f"photos/all/{name} does not exist" in call("photos", "--label", "time")[2]
    for name in ("7.png", "0.png"):
        (tmp_path / "photos" / "all" / name).write_bytes(b"no image")
    assert "0.png is no image" in call("photos", "--label", "time")[2]


def test_it_goes_on_where_it_was_interrupted(call, tmp_path, monkeypatch):
    flowers()[0].to_csv("flowers.csv", index=False)
    calls, rank = [], cleaning.rank

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rank(*arguments)

    monkeypatch.setattr(cleaning, "rank", interrupted)
    status, _, err = call("flowers.csv", "--label", "species", "--out", "out")
    assert status == 130 and "--out out --resume" in err
    assert not (tmp_path / "out" / "suspects.csv").exists()
    assert "interrupted" in call("flowers.csv", "--label", "species", "--out", "out")[2]
    assert call("flowers.csv", "--label", "species", "--out", "out", "--resume")[0] == 0
    assert len(calls) == 3  # the first stage was not repeated
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert call("flowers.csv", "--label", "species", "--out", "again")[0] == 0
    for name in ("suspects.csv", "weights.csv", "clean.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def table_with(column, value, row=3):
    table = flowers()[0]
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    return table.to_csv(index=False)


PLAIN = "x,y\n1,a\n2,b\n1,a\n2,b\n"
BAD_FILES = {
    "empty": (b"", "is empty"),
    "header": (b"x,species\n", "has no rows"),
    "column": (b"x,y\n1,a\n", "--label is species, which bad.csv has no column for; it has x, y"),
    "one class": (b"x,species\n1,a\n2,a\n", "has one class, 'a'"),
    "once": (table_with("species", "rosa").encode(), "has 'rosa' once, in row 4"),
    "number": (table_with("species", "").encode().replace(b"setosa", b""), "labels are missing"),
    "names": (b"x,species\n" + b"".join(b"1,n%d\n" % n for n in range(9)), "9 different values"),
    "infinite": (table_with("b", "inf").encode(), "the column b is infinite in row 4"),
    "spaced": (table_with("b", "-inf ").encode(), "the column b is infinite in row 4"),
    "huge": (table_with("b", "1e200").encode(), "the column b holds 1e+200 in row 4; allowed are"),
    "mark": (b"\xef\xbb\xbf\n", "is empty"),
    "wide letters": ("x,species\n1,a\n".encode("utf-16"), "such as with iconv -f utf-16 -t utf-8"),
    "twice": (b"x,x,species\n1,2,a\n", "two columns of the name 'x'"),
    "latin": ("x,species\n1,Blüte\n".encode("latin1"), "is not UTF-8 (byte 14 is 0xfc)"),
    "long": (b"x,species\n1,a,2\n1,b,2\n", "rows with more cells than the header"),
    "ragged": (b"x,species\n1,a\n1,2,3,4,a\n", "bad.csv: "),
    "wide": (",".join(map(str, range(10**6))).encode(), "1,000,000 columns; allowed are 10,000"),
    "binary": (b"x,species\n\0\0,a\n", "NUL characters"),
    "only labels": (b"species\na\nb\na\nb\n", "no column but the labels"),
    "useless": (b"x,species\n1,a\n1,b\n1,a\n1,b\n", "no column can be used"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(call, tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content)
    refused(call, tmp_path, message, "bad.csv", "--label", "species")


def refused(call, tmp_path, message, *arguments):
    """The status is 2, there is one line, and nothing has been written or changed."""
    state = lambda: {
        path: path.is_file() and path.stat().st_mtime_ns for path in tmp_path.rglob("*")
    }
    before = state()
    status, _, err = call(*arguments)
    assert status == 2 and message in err, err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert state() == before


BAD_VALIDATION = {
    "columns": (lambda table: table.drop(columns="b"), "which has no column 'b'"),
    "more": (lambda table: table.assign(new=1), "whose column is not in the file: column 'new'"),
    "unknown": (lambda table: table.assign(species="rosa"), "the unknown class 'rosa'"),
    "absent": (lambda table: table.assign(species="setosa"), "example of the class 'versicolor'"),
    "label": (lambda table: table.rename(columns={"species": "kind"}), "--label is species"),
    "words": (lambda table: table.assign(b="two"), "whose column b holds 'two' in row 1"),
    "far": (
        lambda table: table.assign(b=[1e40, *table["b"][1:]]),
        "column 1 holds 1e+40 in row 0, too far from the",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD_VALIDATION.values(), ids=BAD_VALIDATION)
def test_bad_validation_files(call, tmp_path, change, message):
    table = flowers()[0]
    table.to_csv("flowers.csv", index=False)
    change(table).to_csv("checked.csv", index=False)
    arguments = ["flowers.csv", "--label", "species", "--validation", "checked.csv"]
    refused(call, tmp_path, message, *arguments)


@pytest.mark.filterwarnings("default::metastep.sklearn.DifferentFeaturesWarning")
def test_a_warning_of_the_library_is_one_line(call, monkeypatch):
    rank = cleaning.rank

    def warns(features, labels, trusted, *more):
        warnings.warn("X_valid plainly differs from X", DifferentFeaturesWarning, stacklevel=1)
        return rank(features, labels, None, *more)

    monkeypatch.setattr(cleaning, "rank", warns)
    flowers(wrong=0)[0].to_csv("flowers.csv", index=False)
    arguments = ["flowers.csv", "--label", "species", "--validation", "flowers.csv"]
    status, out, err = call(*arguments)
    assert (status, err) == (0, "") and "X_valid" not in out
    assert sum("warning: the columns of --validation" in line for line in out.splitlines()) == 1


def test_bad_places(call, tmp_path):
    table = flowers()[0]
    table.to_csv("flowers.csv", index=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    plain = ["flowers.csv", "--label", "species"]
    refused(call, tmp_path, "other files and no cleaning.json", *plain, "--out", "full")
    refused(call, tmp_path, "which the command reads", *plain, "--out", "flowers.csv")
    refused(call, tmp_path, "nowhere.csv does not exist", "nowhere.csv", "--label", "x")
    refused(call, tmp_path, "allowed are .csv", "full/letter.txt", "--label", "x")
    refused(call, tmp_path, "found: none", "full", "--label", "x")
    refused(call, tmp_path, "--model", *plain, "--model", "forest")
    assert call(*plain, "--out", "out")[0] == 0
    table["a"] = table["a"].astype(float) + 1
    table.to_csv("flowers.csv", index=False)
    refused(call, tmp_path, "another file or setting", *plain, "--out", "out", "--resume")
    for content in ("{", "[]", "{}"):
        (tmp_path / "out" / "cleaning.json").write_text(content)
        refused(call, tmp_path, "cleaning.json is damaged", *plain, "--out", "out")


def test_parquet_with_lists_or_damage(call, tmp_path):
    table = pd.DataFrame({"x": [[1], [2], [1], [2]], "y": list("abab")})
    table.to_parquet("lists.parquet")
    refused(call, tmp_path, "the column x holds lists", "lists.parquet", "--label", "y")
    content = (tmp_path / "lists.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(content[: len(content) // 2])
    refused(call, tmp_path, "no Parquet file", "half.parquet", "--label", "y")


def test_cells_with_separators_and_quotes_come_back(call, tmp_path):
    rows = [(f'say "{row}", twice', row % 2 * 5 + row / 100, "ab"[row % 2]) for row in range(40)]
    with open("quoted.csv", "w", newline="") as file:
        csv.writer(file).writerows([("what, why", "x", "y"), *rows])
    assert call("quoted.csv", "--label", "y", "--out", "out")[0] == 0
    with open(tmp_path / "out" / "clean.csv", newline="") as file:
        kept = list(csv.reader(file))
    assert kept[0] == ["what, why", "x", "y"] and len(kept) > 30
    assert {tuple(row) for row in kept[1:]} <= {tuple(map(str, row)) for row in rows}


def test_nothing_is_estimated_from_columns_that_say_nothing(call, tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.standard_normal(200), "y": rng.choice(["a", "b"], 200)})
    table.to_csv("noise.csv", index=False)
    status, out, _ = call("noise.csv", "--label", "y", "--out", "out")
    assert status == 0 and "cannot be estimated" in out
    assert "share" not in json.loads((tmp_path / "out" / "cleaning.json").read_text())

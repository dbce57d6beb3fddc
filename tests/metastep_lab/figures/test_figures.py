"""The style of figures: the same bytes for the same numbers, and no global change."""

import matplotlib
import numpy as np
import pytest

from metastep_lab.figures import style as figures

X = np.arange(1.0, 6.0)


def example():
    series = {"one": (X, X**2), "two": (X, X**3)}
    return figures.line_figure(
        figures.Lines(
            series,
            x_label="window K (steps)",
            y_label="error",
            title="Bias",
            x_log=True,
            y_log=True,
            legend_title="problem",
            bands={"one": (X, X**3)},
            dashed={"two": (X, 2 * X**3)},
        )
    )


def test_saving_twice_gives_the_same_bytes(tmp_path):
    first = [path.read_bytes() for path in figures.save(example(), tmp_path / "a" / "bias")]
    second = [path.read_bytes() for path in figures.save(example(), tmp_path / "b" / "bias")]
    assert first == second
    assert first[0].startswith(b"<?xml") and first[1].startswith(b"\x89PNG")
    assert b"<dc:date>" not in first[0]


def test_nothing_global_changes(tmp_path):
    before = dict(matplotlib.rcParams)
    figures.save(example(), tmp_path / "bias")
    assert dict(matplotlib.rcParams) == before


def test_labels_legend_and_theory_are_drawn():
    (axes,) = example().axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("window K (steps)", "error")
    legend = axes.get_legend()
    assert legend.get_title().get_text() == "problem"
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two", "two (theory)"]
    one, two, theory = axes.get_lines()
    assert one.get_color() != two.get_color() == theory.get_color()
    assert (two.get_linestyle(), theory.get_linestyle()) == ("-", "--")


@pytest.mark.parametrize(
    "values", [np.full(5, np.nan), np.zeros(5), np.array([1.0, np.nan, -1.0, 0.0, 5.0])]
)
def test_gaps_and_empty_series_are_no_accident(tmp_path, values):
    panel = figures.Lines({"": (X, values)}, x_label="x", y_label="y", y_log=True)
    figure = figures.line_figure(panel)
    assert figure.axes[0].get_legend() is None
    figures.save(figure, tmp_path / "gaps")


def test_styles_differ_in_color_and_line_and_then_in_their_combination():
    looks = [figures.style(index, markers=True) for index in range(49)]
    keys = ("color", "linestyle", "marker")
    assert len({tuple(look[key] for key in keys) for look in looks}) == 49
    for key in keys:
        assert len({look[key] for look in looks[:7]}) == 7


def test_panels_come_row_by_row():
    figure, axes = figures.new_figure(columns=3, rows=2)
    assert axes.shape == (6,)
    assert list(axes) == figure.axes
    assert figure.get_size_inches()[0] > figures.new_figure()[0].get_size_inches()[0]


def test_a_label_has_the_same_look_in_all_panels_of_a_shared_legend():
    line = [1, 2], [3, 4]
    panels = [figures.Lines(dict.fromkeys(names, line), "x", "y") for names in ("ab", "cb")]
    figure = figures.line_figure(*panels, shared_legend=True)
    looks = [
        {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
        for axes in figure.axes
    ]
    assert looks[0]["b"] == looks[1]["b"] and looks[0]["a"] != looks[1]["c"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_heatmap_writes_its_numbers(tmp_path):
    figure, (axes,) = figures.new_figure()
    figures.draw_heatmap(
        axes,
        [[1.0, np.nan], [3.0, 4.0]],
        x_ticks=["a", "b"],
        y_ticks=["c", "d"],
        x_label="task",
        y_label="task",
        color_label="similarity",
    )
    assert [text.get_text() for text in axes.texts] == ["1", "3", "4"]
    figures.save(figure, tmp_path / "heat")


def test_panels_beyond_the_last_stay_empty():
    panel = figures.Lines({"": (X, X)}, x_label="x", y_label="y")
    figure = figures.line_figure(panel, panel, panel)
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]


def test_sizes_that_a_figure_chose_are_kept(tmp_path):
    figure, axes = figures.new_figure(columns=2)
    axes[0].set_title("small", fontsize=7)
    axes[1].set_title("normal")
    figures.save(figure, tmp_path / "sizes")
    assert [one.title.get_fontsize() for one in axes] == [7, figures.TITLE_SIZE]

"""Progress bars: when they are shown, and what they show."""

import pytest
import rich

from metastep.progress import progress_bars


@pytest.fixture(params=[False, True], ids=["file", "terminal"])
def terminal(request):
    """Let standard output be a terminal or not; return which."""
    rich.reconfigure(force_terminal=request.param, width=100)
    yield request.param
    rich.reconfigure()


@pytest.mark.parametrize("shown", [False, None, True])
def test_bars_are_shown_on_a_terminal_or_by_wish(shown, terminal, capsys):
    with progress_bars(shown, {"forward": 3}, "a long run") as show:
        show("forward", 1)
    assert ("a long run" in capsys.readouterr().out) == (terminal if shown is None else shown)


def test_each_bar_has_its_steps_and_its_note(terminal, capsys):
    with progress_bars(None, {"forward": 3, "backward": 2}) as show:
        show("forward", 3)
        show("backward", 1, "objective 0.5")
    shown = capsys.readouterr().out
    expected = ("forward", "3/3", "backward", "1/2", "objective 0.5") if terminal else ("",)
    assert all(text in shown for text in expected) and bool(shown) == terminal

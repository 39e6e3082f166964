"""tests/mutation_check.py: its list of mistakes keeps up with the code, and it tells a survivor."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests import mutation_check

ROOT = Path(__file__).parents[1]
NAMES = {
    "axes swapped",
    "keys not rotated",
    "layouts mixed",
    "prefix rotated",
    "cache key without offset",
    "antialias dropped",
    "half-pixel shift",
    "level ignored",
    "mask off by one level",
    "phi of wrong level",
    "formula missed",
    "breaking",
    "smaller",
    "wrong device",
    "others' tokens",
}


@pytest.fixture
def script():
    return mutation_check


def test_every_mistake_can_be_planted_in_the_code_as_it_is(script):
    """Code that moved on would leave a check that checks nothing."""
    for mistake in script.MISTAKES:
        right = (ROOT / mistake.file).read_text()
        wrong = script.apply(mistake, right)
        compile(wrong, mistake.file, "exec")
        assert wrong != right
        assert all((ROOT / test).exists() for test in mistake.tests)
    assert {mistake.name for mistake in script.MISTAKES} == NAMES


def test_a_mistake_with_no_place_or_two_is_an_error(script):
    mistake = replace(script.MISTAKES[0], old="x = 1", new="x = 2")
    assert script.apply(mistake, "x = 1\n") == "x = 2\n"
    for source, found in (("y = 1", 0), ("x = 1; x = 1", 2)):
        with pytest.raises(ValueError, match=rf"'axes swapped' .* found {found} of 'x = 1'"):
            script.apply(mistake, source)


def test_an_unknown_mistake_is_named(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mutation_check.py", "axes turned"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert "there is no mistake 'axes turned'; there are antialias dropped, axes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_survivor_is_told_from_a_mistake_that_is_noticed(script, monkeypatch, capsys):
    """In a copy: the working tree stays as it is."""
    tests = ("tests/test_pyramid.py",)
    noticed = next(m for m in script.MISTAKES if m.tests == tests)
    harmless = replace(
        noticed, how="nothing", old="from torch import Tensor\n", new="from torch import Tensor  #\n"
    )
    monkeypatch.setattr(script, "MISTAKES", (noticed, harmless))
    monkeypatch.setattr(sys, "argv", ["mutation_check.py"])
    before = (ROOT / noticed.file).read_text()
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 1
    told = capsys.readouterr().out.splitlines()
    assert "noticed by tests/test_pyramid.py::test_" in told[0]
    assert told[1:] == [f"{harmless.name} (nothing): SURVIVES tests/test_pyramid.py", "1 survive"]
    assert (ROOT / noticed.file).read_text() == before


@pytest.mark.slow
def test_tests_that_fail_without_any_mistake_are_an_error(script, monkeypatch):
    """Otherwise a broken test would notice everything."""
    broken = replace(script.MISTAKES[0], tests=("tests/no_such_test.py",))
    with pytest.raises(ValueError, match=r"tests/no_such_test\.py did not run"):
        script.check([broken])

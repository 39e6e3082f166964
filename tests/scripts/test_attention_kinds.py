"""benchmarks/attention_kinds.py measures stages whose cost grows as their kinds promise."""

from argparse import Namespace
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from var_pe.models.kernels import served_by

GIVEN = dict(dim=8, heads=2, batch=1, precision="float32", device="cpu", rounds=2)


@pytest.fixture
def kinds(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import attention_kinds

    return attention_kinds


def operations(kinds, kind: str, side: int) -> int:
    step = kinds.step_of(Namespace(**GIVEN), kind, "rope", side)
    with served_by("plain"), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["windowed(blocks=2, window=6)", "local(blocks=2)", "linear(blocks=2)"])
def test_the_cost_of_parts_and_features_grows_with_the_tokens(kinds, kind):
    """Four times the tokens are four times the operations, and for full attention far more."""
    assert operations(kinds, kind, 24) == pytest.approx(4 * operations(kinds, kind, 12), rel=1e-3)
    assert operations(kinds, "full(blocks=2)", 24) > 8 * operations(kinds, "full(blocks=2)", 12)


def test_a_kind_that_cannot_follow_is_left_out(kinds, capsys):
    given = Namespace(**GIVEN, kinds=["full(blocks=1)", "linear(blocks=1)"])
    costs = kinds.costs_of(given, "relative_bias", 4)
    assert [(cost.kind, cost.tokens, cost.ratio) for cost in costs] == [("full(blocks=1)", 16, 1.0)]
    assert "left out at 4x4: linear attention works out no scores" in capsys.readouterr().out
    assert "| `full(blocks=1)` | `relative_bias` |" in kinds.table(costs)

"""scripts/demo.py before it trains anything."""

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--help"], 0, "key.sub=value"),
        (["--steps", "3"], 2, "key.sub=value"),
        (["generator.dmi=3"], 2, "generator.dim"),
        (["tokenizer.levels=[1, 5]"], 2, "tokenizer.levels ends at (5, 5)"),
        (["generator.num_heads=5"], 2, "generator.dim must be a multiple of generator.num_heads"),
    ],
)
def test_help_and_mistakes_train_nothing(monkeypatch, capsys, words, status, sentence):
    """Who asks what the demo does, or errs, should not wait minutes for its first training."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import demo

    monkeypatch.setattr(demo, "run", lambda *_: pytest.fail("a training began"))
    monkeypatch.setattr("sys.argv", ["demo.py", *words])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == status
    said = capsys.readouterr()
    assert sentence in said.out + said.err

"""scripts/demo.py before it trains anything."""

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["--steps", "3"], 2)])
def test_help_and_unknown_options_train_nothing(monkeypatch, capsys, words, status):
    """Who asks what the demo does should not wait minutes for its first training."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import demo

    monkeypatch.setattr(demo, "run", lambda *_: pytest.fail("a training began"))
    monkeypatch.setattr("sys.argv", ["demo.py", *words])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == status
    said = capsys.readouterr()
    assert "key.sub=value" in said.out + said.err

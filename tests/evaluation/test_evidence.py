"""The table of what encodings reached on tasks is read as it was written, and nothing else is."""

import json

import pytest

from var_pe.evaluation import evidence
from var_pe.evaluation.evidence import TaskScore, read_evidence, write_evidence


def test_a_table_that_was_named_must_be_one(tmp_path, monkeypatch):
    """Only the one of docs/ may be missing, as it is where the package alone is installed."""
    with pytest.raises(ValueError, match=r"none.json cannot be read: No such file"):
        read_evidence(tmp_path / "none.json")
    row = dict(encoding="rope", task="detection", size=[8, 8], frozen=True, mean=0.5, spread=None, seeds=[0])
    wrong = [{"mean": None}, {"mean": "x"}, {"mean": True}, {"mean": float("nan")}, {"spread": "x"}]
    wrong += [{"size": [8]}, {"size": ["8", 8]}, {"seeds": []}, {"seeds": 3}, {"frozen": "no"}, {"task": 1}]
    lists = [json.dumps([row | change]) for change in wrong]
    for junk in ("junk", "{}", '{"a": 1}', "3", '[{"encoding": "rope"}]', "[[]]", *lists):
        (tmp_path / "junk.json").write_text(junk)
        with pytest.raises(ValueError, match=r"junk.json is not a table of scripts/heads.py"):
            read_evidence(tmp_path / "junk.json")
    (tmp_path / "good.json").write_text(json.dumps([row]))
    assert [found.mean for found in read_evidence(tmp_path / "good.json")] == [0.5]
    monkeypatch.setattr(evidence, "DEFAULT_TABLE", tmp_path / "none.json")
    assert read_evidence() == []


def test_a_table_from_before_lines_said_their_scale_speaks_of_scale_1(tmp_path):
    """Else a diagnosis would quote what was measured at twelve times the amplitude."""
    old = TaskScore("sinusoidal", "detection", (32, 32), True, 0.5, 0.1, (0, 1), "share of boxes")
    write_evidence([old], tmp_path / "table.json")
    (found,) = read_evidence(tmp_path / "table.json")
    assert found.encoding == "sinusoidal(scale=1)"


def test_a_table_is_read_as_it_was_written(tmp_path):
    """Two programs, one file."""
    table = [
        TaskScore("rope", "detection", (32, 64), True, 0.5, 0.1, (0, 1), "share of boxes"),
        TaskScore("learned", "classification", (8, 8), None, 0.25, None, (3,), "top-1 accuracy"),
    ]
    write_evidence(table, tmp_path / "table.json")
    assert read_evidence(tmp_path / "table.json") == table

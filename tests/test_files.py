"""Results that are kept beside what they rest on."""

import json

import pytest

from var_pe.files import KeptResults


def test_results_are_taken_over_where_they_rest_on_the_same(tmp_path):
    """A study goes on where it was stopped, and never with the numbers of other weights."""
    path = tmp_path / "runs" / "kept.json"
    KeptResults(path, {"weights": "a", "size": (2, 3)}).add({"first": 1})
    again = KeptResults(path, {"weights": "a", "size": (2, 3)})
    assert again.results == {"first": 1}
    again.add({"second": [2]})
    assert KeptResults(path, {"weights": "a", "size": (2, 3)}).results == {"first": 1, "second": [2]}
    other = KeptResults(path, {"weights": "b", "size": (2, 3)})
    assert other.results == {}
    other.add({"third": 3})
    assert json.loads(path.read_text()) == {"weights": "b", "size": [2, 3], "results": {"third": 3}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "junk",
        "[]",
        "3",
        '{"weights": "a", "results": []}',
        '{"results": {"first": 1}}',
        '{"weights": "a"}',
    ],
)
def test_a_file_that_cannot_be_used_is_made_anew(tmp_path, text):
    """Half a file of an older program must not stop a study."""
    (tmp_path / "kept.json").write_text(text)
    kept = KeptResults(tmp_path / "kept.json", {"weights": "a"})
    assert kept.results == {}
    kept.add({"first": 1})
    assert KeptResults(tmp_path / "kept.json", {"weights": "a"}).results == {"first": 1}

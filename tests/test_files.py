"""Results that are kept beside what they rest on, and what a kill leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from var_pe.files import KeptResults, remove_drafts


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


KILLED = """
import sys, time
from pathlib import Path
from var_pe.files import written_whole
with written_whole(Path(sys.argv[1])) as draft:
    draft.write_text("half")
    print(draft, flush=True)
    time.sleep(60)
"""


def test_drafts_of_writers_that_were_killed_are_removed_and_no_others(tmp_path):
    """They would gather beside pictures and tokens; but another program may be writing there right now."""
    line = [sys.executable, "-c", KILLED]
    (tmp_path / "images").mkdir()
    with (
        subprocess.Popen([*line, tmp_path / "images" / "a.png"], stdout=subprocess.PIPE, text=True) as killed,
        subprocess.Popen([*line, tmp_path / "b.npy"], stdout=subprocess.PIPE, text=True) as alive,
    ):
        left, written = (Path(program.stdout.readline().strip()) for program in (killed, alive))
        killed.kill()
        killed.wait()
        assert left.exists()
        remove_drafts(tmp_path)
        assert not left.exists()
        assert written.exists()
        alive.kill()

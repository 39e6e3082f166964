"""Results that are kept beside what they rest on, and what a kill leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from var_pe.files import KeptResults, check_writable, into_place, remove_drafts, reserve, written_whole
from var_pe.stages.session import sentence_of


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


def test_a_full_disk_is_said_of_the_file_that_was_to_be_there(tmp_path):
    """A sentence without a name, or with that of a draft, does not say which disk is full."""
    full = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space") as met, written_whole(tmp_path / "a.png"):
        raise full
    assert sentence_of(met.value) == f"{tmp_path / 'a.png'}: No space left on device"
    assert not list(tmp_path.iterdir())

    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "weights"))

    with pytest.raises(OSError, match="No space") as met:
        into_place(tmp_path / "model", fill)
    assert sentence_of(met.value) == f"{tmp_path / 'model'}: No space left on device"


def test_space_is_taken_before_it_is_written_to(tmp_path):
    """A file that is written through memory would end the process where the disk is full."""
    path = tmp_path / "tokens.npy"
    with path.open("wb") as file:
        file.truncate(1 << 20)
    reserve(path)
    assert path.stat().st_blocks * 512 >= 1 << 20


def test_a_folder_that_takes_nothing_is_said_before_the_work(tmp_path, monkeypatch):
    check_writable(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check_writable(tmp_path / "to be made")
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be written to"):
        check_writable(tmp_path)


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

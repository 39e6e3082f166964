import json

import pytest

from var_pe.training.notes import FILE, TrainingNotes

NOTES = TrainingNotes(step=7, ema=True, seed=3, class_names=("ant", "bee"))


def test_notes_come_back_as_they_were_written(tmp_path):
    NOTES.write(tmp_path)
    assert TrainingNotes.read(tmp_path) == NOTES
    assert json.loads((tmp_path / FILE).read_text())["class_names"] == ["ant", "bee"]


def test_what_no_file_says_is_unknown(tmp_path):
    """Weights that were converted have no notes, and those of older runs lack entries."""
    assert TrainingNotes.read(tmp_path) == TrainingNotes(None, None, None, None)
    (tmp_path / FILE).write_text('{"step": 7}')
    assert TrainingNotes.read(tmp_path) == TrainingNotes(step=7)


@pytest.mark.parametrize("text", ['{"step": 7, "em', "", "[7]", "null", '{"class_names": 3}', "\udcff"])
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path / FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"{FILE} is damaged") as error:
        TrainingNotes.read(tmp_path)
    assert "\n" not in str(error.value)

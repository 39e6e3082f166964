"""What surrounds every command: errors, warnings and Ctrl-C are a line each."""

import os
import signal
import warnings

import pytest
from PIL import Image

from var_pe.stages.session import exit_with_sentence
from var_pe.training.stopping import Interrupted


def test_a_warning_is_one_line_and_comes_once(capsys):
    """A path and a line of our code tell a person nothing, nor does the same sentence of every batch."""
    before = warnings.showwarning
    with exit_with_sentence():
        for _ in range(2):
            warnings.warn("scores of few\nimages", stacklevel=1)
            warnings.warn("scores of few\nimages", RuntimeWarning, stacklevel=2)
        warnings.warn("may be a bomb", Image.DecompressionBombWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: scores of few images\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped\n"),
        (ValueError("seed must\nbe whole"), 2, "error: seed must be whole\n"),
        (FloatingPointError("step 3"), 1, "error: step 3\n"),
        (OSError(28, "No space left on device", "runs/a"), 2, "error: runs/a: No space left on device\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_a_status(error, code, said, capsys):
    with pytest.raises(SystemExit) as left, exit_with_sentence():
        raise error
    assert left.value.code == code
    assert capsys.readouterr().err == said


def test_a_stopped_training_leaves_at_once(capfd):
    """Taking down what was imported and compiled took a busy machine more than the 30 s that are given."""
    child = os.fork()
    if child == 0:
        try:
            with exit_with_sentence():
                print("all is saved")
                raise Interrupted(signal.SIGTERM, "stopped")
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    assert "all is saved" in capfd.readouterr().out

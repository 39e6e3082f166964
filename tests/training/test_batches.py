"""The batches of a training come from data workers, or the reason why they cannot is said."""

import pytest
from accelerate import Accelerator

from var_pe.tasks.tokenizer import TokenizerTraining
from var_pe.training.batches import endless_batches

TORCHS = "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"


class Failing:
    """Images that cannot be read, for a reason."""

    num_images = 4

    def __init__(self, error):
        self.error = error

    def __getitem__(self, draw):
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (RuntimeError(TORCHS), ValueError, r"^workers=1: shared memory \(/dev/shm\) has no room.*workers=0"),
        (RuntimeError("another"), RuntimeError, "another"),
    ],
)
def test_too_little_shared_memory_is_a_sentence(error, expected, said):
    """Containers have 64 MB of it, and torch's words are the traceback of a worker."""
    batches = endless_batches(Failing(error), TokenizerTraining(batch=2, workers=1), Accelerator(), 0, 0)
    with pytest.raises(expected, match=said):
        next(batches)

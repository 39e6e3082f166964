"""Two processes train what one would, and agree without waiting on what ends a training and at which step.

They are started once for all tests, since importing takes longer than all that they do.
"""

import json
import subprocess

import pytest
from accelerate import Accelerator

from tests.runs import train_both
from tests.stages.test_processes import ROOT, TINY, check_equal_losses, command
from var_pe import settings
from var_pe.stages.config import Config
from var_pe.stages.train import train_encoder
from var_pe.training.log import read_log

# Small trainings, of which each process writes down what came of them; then those that one process did before
TRAININGS = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from accelerate import Accelerator
from tests.runs import train_both
from tests.training.test_loop import Toy
from var_pe import settings
from var_pe.processes import exchange
from var_pe.stages.config import Config
from tests.stages.test_two_processes import of_views
from var_pe.stages.train import train_encoder, train_tokenizer
from var_pe.training.config import TrainingConfig
from var_pe.training.history import StepsAsked, History
from var_pe.training.loop import train
from var_pe.training.run import Run
from var_pe.training.stopping import Interrupted

accelerator = Accelerator(cpu=True)
rank, folder = accelerator.process_index, Path(__file__).parent
rarely = TrainingConfig(
    batch=4, log_every=100, save_every=100, validate_every=0, preview_every=0, trackers=[]
)


def go(name, act, config=rarely):
    run = Run(folder / name, accelerator)
    try:
        train(Toy(act), config, run, History((StepsAsked(0, 12),)), seed=0)
        return "finished"
    except FloatingPointError as error:
        return str(error).partition(";")[0]
    except Interrupted as stopped:
        return stopped.sentence.partition(";")[0]
    finally:
        run.release()


with exchange(accelerator) as between:
    said = [between.largest(number + rank) for number in (10, 30, 20, 40)]
def broken_here(step):
    return float("inf") if step == 3 and rank == 1 else 1.0


def stopped_here(step):
    if step == 3 and rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return 1.0


found = {
    "exchanged": said,
    "broken": go("broken", broken_here),
    "stopped": go("stopped", stopped_here),
    "stopped where all wait": go("logged", stopped_here, replace(rarely, save_every=4)),
}
(folder / f"{rank}.json").write_text(json.dumps(found))

# The same tokenizer: two that differ by rounding break a tie between codes differently now and then.
given = sys.argv[3:]
train_tokenizer(settings.load(Config, "shapes_mixed.yaml", given), accelerator)
one = f"tokenizer_run={folder}/1/tokenizer"
train_both(settings.load(Config, "shapes_mixed.yaml", [*given, one]))
train_encoder(of_views(folder / "2"), None, accelerator)
"""


def of_views(folder) -> Config:
    """An encoder that tells two views of 64 small pictures apart."""
    given = [
        f"run={folder}/encoder",
        *(f"data.{rest}" for rest in ("height=16", "width=16", "shapes_train=64", "shapes_test=16")),
        *(f"classifier.{rest}" for rest in ("dim=16", "depth=1", "num_heads=2")),
        "encoder={}",
        *(f"encoder.{rest}" for rest in ("method=contrast", "projection=8", "projection_hidden=16")),
        *(f"encoder_training.{rest}" for rest in ("steps=4", "batch=8", "log_every=1", "trackers=[]")),
    ]
    return settings.load(Config, "shapes_vit.yaml", given)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A folder with what one process trained and what two did, and what each of these wrote down."""
    folder = tmp_path_factory.mktemp("two")
    one = [f"run={folder / '1' / 'run'}", f"tokenizer_run={folder / '1' / 'tokenizer'}"]
    train_both(settings.load(Config, "shapes_mixed.yaml", [*one, *TINY]))
    train_encoder(of_views(folder / "1"), None, Accelerator())

    (folder / "both.py").write_text(TRAININGS)
    line, environment = command(folder / "2", script=folder / "both.py", processes=2)
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_give_the_losses_of_one(ended):
    """Augmentation, label drop and code restarts belong to the image and the step, not to the process."""
    check_equal_losses(ended[0])


def test_two_processes_tell_views_apart_as_one(ended):
    """Each compares its own with those of both."""
    found = []
    for number in "12":
        log = read_log(ended[0] / number / "encoder" / "log.jsonl")
        found.append([entry[name] for entry in log for name in ("loss", "validation/loss") if name in entry])
    assert len(found[0]) == 5
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_an_exchange_tells_everybody_the_largest_number_of_the_call_before(ended):
    """Nobody waits for the others' present numbers, and all come to the same decision."""
    assert [found["exchanged"] for found in ended[1]] == [[0, 11, 31, 21]] * 2


def test_a_number_of_one_process_that_is_not_finite_ends_all_at_the_same_step(ended):
    """The others would go on alone, and wait for ever for the one that has ended."""
    folder, found = ended
    for one in found:
        assert one["broken"].startswith("step 4: loss is inf, grad_norm is ")
    assert not list((folder / "broken" / "checkpoints").iterdir())


def test_a_signal_to_one_process_stops_all_after_the_same_step(ended):
    """One step later than it came, as the answers are read a step later; at once where all wait anyway."""
    folder, found = ended
    for name, run, step in (("stopped", "stopped", 5), ("stopped where all wait", "logged", 4)):
        assert [one[name] for one in found] == [f"stopped and saved after step {step} of 12"] * 2
        assert [path.name for path in (folder / run / "checkpoints").iterdir()] == [f"step_{step:08d}"]

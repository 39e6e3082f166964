"""A damaged checkpoint is named and passed over, and the one before it gives the same bits."""

import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.training.test_loop import Toy, die_at, equal, go
from var_pe.processes import Processes
from var_pe.training import run
from var_pe.training.checkpoints import newest

PARTS = ("state.json", "model.safetensors", "ema.safetensors", "optimizer.pt")


def cut_short(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def reshape(file):
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}  # not a map of the file
    name = next(iter(tensors))
    save_file(tensors | {name: torch.zeros(2, 2)}, file)


def other_step(file):
    file.write_text(json.dumps(json.loads(file.read_text()) | {"step": 1}))


def other_optimizer(file):
    saved = torch.load(file, weights_only=True)
    first = next(iter(saved["state"].values()))
    first["exp_avg"] = torch.zeros(7)
    torch.save(saved, file)


HARM = {
    **{f"{part} cut short": (part, cut_short) for part in PARTS},
    **{f"{part} empty": (part, lambda file: file.write_bytes(b"")) for part in PARTS},
    **{f"{part} missing": (part, lambda file: file.unlink()) for part in PARTS},
    **{f"{part} garbage": (part, lambda file: file.write_bytes(b"\x93garbage" * 50)) for part in PARTS},
    "weights of another shape": ("model.safetensors", reshape),
    "average of another shape": ("ema.safetensors", reshape),
    "optimizer of another model": ("optimizer.pt", other_optimizer),
    "state of another step": ("state.json", other_step),
    "state without a step": ("state.json", lambda file: file.write_text("[1]")),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed in its fifth step, with two checkpoints, and the weights of a whole one."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(KeyError):
        go(folder / "killed", Toy(die_at(4)))
    return folder / "killed", go(folder / "whole")


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_checkpoint_is_named_and_put_aside(killed, tmp_path, capsys, harm):
    """A disk that was full, a copy that was cut off: an older state is there and is worth having."""
    shutil.copytree(killed[0] / "checkpoints", tmp_path / "checkpoints")
    part, do = HARM[harm]
    do(tmp_path / "checkpoints" / "step_00000004" / part)

    found = newest(tmp_path / "checkpoints", Toy().model.state_dict(), Processes())
    assert found.step == 3
    said = capsys.readouterr().out
    assert f"step_00000004/{part}" in said
    assert "resuming from step 3" in said
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000003",
        "step_00000004.damaged",
    ]


def test_a_run_goes_on_from_the_older_checkpoint_with_the_same_bits(killed, tmp_path, capsys):
    """The steps since are done again."""
    shutil.copytree(killed[0], tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step_00000004" / "state.json").write_bytes(b"")
    assert equal(go(tmp_path / "run"), killed[1])
    assert "resuming after step 3 of 6" in capsys.readouterr().out


def test_a_copied_folder_is_no_checkpoint(killed, tmp_path, capsys):
    """People keep copies beside the originals."""
    shutil.copytree(killed[0], tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("step_00000003_old1", "step_00000004 (copy)", "step_99999999x", "step_latest"):
        shutil.copytree(checkpoints / "step_00000003", checkpoints / name)

    assert equal(go(tmp_path / "run"), killed[1])
    said = capsys.readouterr().out
    assert "step_00000003_old1 is ignored, since it is not named like a checkpoint" in said
    assert "resuming after step 4 of 6" in said


def test_one_sentence_says_that_no_checkpoint_is_whole(killed, tmp_path):
    """Beginning anew would be a decision that nobody asked for."""
    shutil.copytree(killed[0], tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .*00004.*is empty; .*00003.*delete") as refused:
        go(tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_0000000?"))) == 2


def test_a_damaged_line_of_the_log_is_left_out(killed, tmp_path):
    """A kill, or an editor, may leave anything there."""
    shutil.copytree(killed[0], tmp_path / "run")
    with (tmp_path / "run" / "log.jsonl").open("ab") as log:
        log.write(b'[1]\n{"loss": 3}\n\xff\xfe\n{"step": 4, "lo')
    assert equal(go(tmp_path / "run"), killed[1])
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "error", [SafetensorError("No space left on device"), RuntimeError("unexpected pos 7")]
)
def test_a_full_disk_is_said_in_a_sentence(tmp_path, monkeypatch, error):
    """torch and safetensors have errors of their own for it, which would end in a traceback."""

    def is_full(*given):
        raise error

    monkeypatch.setattr(run, "save_file", is_full)
    with pytest.raises(ValueError, match=f"checkpoint of step 1 cannot be written into .*{error}.*; nothing"):
        go(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []

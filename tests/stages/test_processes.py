"""Whole runs as a user starts them: one process against two, killed and resumed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from var_pe.models.quantizers import expects
from var_pe.resampling.conventions import resample_table
from var_pe.training.groups import LayerRates

ROOT = Path(__file__).parents[2]
TINY = [
    "data.shapes_train=48",
    "data.shapes_test=16",
    "data.framing=crop",
    "data.flip=true",
    "data.resize_factor=1.5",
    "tokenizer.channels=16",
    "tokenizer.norm_groups=8",
    "tokenizer.codebook_size=32",
    "generator.dim=32",
    "generator.depth=2",
    "generator.num_heads=2",
    "tokenizer_training.steps=20",
    # under seed 0 a vector lies between two codes, where rounding decides
    "tokenizer_seed=1",
    "tokenizer_training.batch=8",
    "tokenizer_training.log_every=1",
    "tokenizer_training.precision=float32",
    "tokenizer_training.trackers=[]",
    "tokenizer_training.restart.every=3",
    "tokenizer_training.restart.below=0.5",
    "tokenizer_training.restart.memory=2",
    "tokenizer_training.learning_rate=1e-3",
    "generator_training.steps=20",
    "generator_training.batch=8",
    "generator_training.log_every=1",
    "generator_training.precision=float32",
    "generator_training.trackers=[]",
    "generator_training.label_drop=0.3",
    "generator_training.views=2",
]
CLASSIFIER = [
    "classifier={}",
    "classifier.encoding=learned + rope + peg",
    "classifier.dim=16",
    "classifier.depth=2",
    "classifier.num_heads=2",
    "classifier.patch_size=8",
    "classifier.registers=1",
    "classifier_training.steps=8",
    "classifier_training.batch=8",
    "classifier_training.log_every=1",
    "classifier_training.ema=0",
    "classifier_training.precision=float32",
]

PYRAMIDS = "[[1, 2, 3, 4], [1, 2, 4], [1, 2, 3, 4, 5], [[1, 1], [2, 3], [4, 6]]]"


def command(folder, *more, processes=1, script=ROOT / "scripts" / "train.py"):
    """The command line of scripts/train.py, or of another script, on a tiny set, and its environment."""
    start = [sys.executable]
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        config = ROOT / "configs" / "accelerate" / "cpu_2_processes.yaml"
        start += [
            "-m",
            "accelerate.commands.launch",
            f"--config_file={config}",
            f"--main_process_port={port}",
        ]
    run = [f"run={folder}/run", f"tokenizer_run={folder}/tokenizer"]
    line = [*start, str(script), "--config", "shapes_mixed.yaml", *run, *TINY, *more]
    return line, {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def run(folder, *more, processes=1):
    line, environment = command(folder, *more, processes=processes)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(folder):
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry], sum(
        entry.get("restarted", 0) for entry in entries
    )


def check_equal_losses(folder):
    for part in ("tokenizer", "run"):
        (one, restarts), (two, restarts_of_two) = (losses(folder / n / part) for n in "12")
        assert len(one) == len(two) == 20
        assert two == pytest.approx(one, abs=1e-5)
        assert restarts == restarts_of_two
        assert part == "run" or restarts > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantizer",
    [
        "vq(learning=ema, decay=0.8, gradient=rotation)",
        "vq(rate=0.1, given=coarser)",
        "bsq(bits=5, temperature=5)",
        "fsq(levels=[5, 4, 3])",
    ],
)
def test_two_processes_learn_the_codes_of_one(tmp_path, quantizer):
    """Averages, entropies and scales are those of all images, and dropped levels belong to the image.

    At bsq's own temperature a difference by rounding flips a bit within a few steps.
    """
    more = [f"tokenizer.quantizer={quantizer}", "tokenizer_training.quantizer_dropout=0.5"]
    more += ["tokenizer_training.redrawn={share: 0.5, start: 0.3}"] if expects(quantizer) else []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        run(folder, *more, "--stage", "tokenizer", processes=processes)
    one, two = (losses(tmp_path / n / "tokenizer")[0] for n in "12")
    assert len(one) == 20
    assert two == pytest.approx(one, abs=1e-4)


@pytest.mark.slow
def test_two_processes_learn_the_masks_of_one(tmp_path):
    """Losses are means over pixels, and scores those of all images, whoever looked at them."""
    small = [*CLASSIFIER, "data.framing=pad", "data.flip=false", "segmenter={}", "segmenter.width=8"]
    training = ("steps=6", "batch=8", "log_every=1", "validate_every=3", "precision=float32", "trackers=[]")
    more = [*small, *(f"segmenter_training.{rest}" for rest in training)]
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        run(folder, *more, processes=processes)
        values = json.loads((folder / "run" / "metrics.json").read_text())["segmenter"]["values"]
        found.append([*losses(folder / "run")[0], *values.values()])
    assert len(found[0]) > 8
    assert found[1] == pytest.approx(found[0], abs=1e-4)


@pytest.mark.slow
def test_two_processes_play_the_game_of_one(tmp_path):
    """The opponent's gradients, its recent means and the adaptive weight are those of all images together."""
    more = [
        "adversarial.weight=0.5",
        "adversarial.start=0.1",
        "adversarial.channels=16",
        "adversarial.r1=0.1",
        "adversarial.lecam=0.1",
        "adversarial.augment=[color, translation, cutout]",
        "accumulate=2",
    ]
    values = []
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        settings = [f"tokenizer_training.{setting}" for setting in more]
        run(tmp_path / str(processes), *settings, "--stage", "tokenizer", processes=processes)
        entries = (tmp_path / str(processes) / "tokenizer" / "log.jsonl").read_text().splitlines()
        values.append([entry for entry in map(json.loads, entries) if "loss" in entry])
    assert len(values[0]) == len(values[1]) == 20
    for name in ("loss", "discriminator", "opponent_grad_norm", "adversarial/weight"):
        one, two = ([entry[name] for entry in entries if name in entry] for entries in values)
        assert len(one) >= 18
        assert two == pytest.approx(one, abs=1e-4, rel=1e-3)


@pytest.mark.slow
def test_two_processes_draw_the_pyramids_of_one(tmp_path):
    """Processes that trained on different grids at one step would wait for each other for ever, or worse."""
    more = [
        "generator.encoding=mixed(learned(resample=timm), sinusoidal, weights=(0.7, 0.3))",
        "generator.level_embedding=sinusoidal",
        *(f"{kind}_training.pyramids={PYRAMIDS}" for kind in ("tokenizer", "generator")),
    ]
    for folder in "12":
        (tmp_path / folder).mkdir()
    run(tmp_path / "1", *more)
    run(tmp_path / "2", *more, "--stage", "tokenizer", processes=2)
    # The same tokenizer: two that differ by rounding break a tie between codes differently now and then.
    run(tmp_path / "2", *more, f"tokenizer_run={tmp_path}/1/tokenizer", processes=2)
    check_equal_losses(tmp_path)


@pytest.mark.slow
def test_two_processes_thaw_the_layers_of_one(tmp_path):
    """Gradients of frozen layers are computed, so that DDP waits for none, and count for nothing."""
    run(tmp_path, "--stage", "classifier", *CLASSIFIER, f"run={tmp_path}/trained")
    more = [
        *CLASSIFIER,
        f"model.init_from={tmp_path}/trained",
        "classifier_training.unfreeze_every=3",
        "classifier_training.layer_decay=0.5",
        "classifier_training.accumulate=2",
        "data.height=64",
        "data.width=16",
    ]
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        done = run(tmp_path / str(processes), "--stage", "classifier", *more, processes=processes)
        assert "unused" not in done.stderr
    one, two = (losses(tmp_path / folder / "run")[0] for folder in "12")
    assert len(one) == len(two) == 8
    assert two == pytest.approx(one, abs=1e-5)
    start, *ends = (classifier(tmp_path / folder) for folder in ("trained", "1/run", "2/run"))
    (table,) = (name for name in start if name.endswith("table_LC"))
    start[table] = resample_table(start[table], (4, 4), (8, 2), "timm")
    for name, value in ends[1].items():
        torch.testing.assert_close(value, ends[0][name], atol=1e-5, rtol=0)
        if not name.endswith("grids_K2"):
            thawed = LayerRates(depth=2).below_head(name) <= 7 // 3  # in the last of 8 steps
            assert torch.equal(value, start[name]) != thawed, name


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_two_processes_say_together_what_they_passed_over(tmp_path, streaming):
    """Each process reads its own part: the one that prints has not met the other's broken pictures."""
    for split, count in (("train", 24), ("test", 4)):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (32, 32), (9 * number, 80, 200 if label == "a" else 20))
                picture.save(tmp_path / split / label / f"{number:02d}.png")
    for number in range(6):
        (tmp_path / "train" / "a" / f"{4 * number:02d}.png").write_bytes(b"no picture")
    data = ["data.source=imagefolder", f"data.path={tmp_path}", "data.on_corrupt=skip"]
    steps = ["tokenizer_training.steps=12", "generator_training.steps=2", "generator_training.views=0"]
    said = run(tmp_path, *data, *steps, f"data.streaming={streaming}".lower(), processes=2).stdout
    skipped = [int(line.split()[2]) for line in said.splitlines() if line.startswith("passed over")]
    assert skipped[0] >= 6 if streaming else skipped[0] == 6


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_bit(tmp_path):
    """SIGKILL anywhere: while importing, encoding, training, saving. The finished weights are the same."""
    more = ["tokenizer_training.save_every=1", "generator_training.save_every=1"]
    (tmp_path / "whole").mkdir()
    began = time.monotonic()
    run(tmp_path / "whole", *more)
    shortest, kills, clock = time.monotonic() - began, 0, random.Random(0)
    whole = weights(tmp_path / "whole")
    for attempt in range(100):
        folder = tmp_path / f"killed_{attempt}"
        folder.mkdir()
        finished = False
        while not finished and kills < 20:
            line, environment = command(folder, *more)
            began = time.monotonic()
            process = subprocess.Popen(line, env=environment, cwd=folder, stderr=subprocess.DEVNULL)
            try:
                finished = process.wait(timeout=clock.uniform(0.3, 1.0) * shortest) == 0
                assert finished, "a run that nobody killed failed"
                shortest = min(shortest, time.monotonic() - began)  # a resumed one has less to do
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        run(folder, *more)
        assert weights(folder) == whole
        if kills >= 20:
            return
    pytest.fail(f"only {kills} kills hit a running training")


def weights(folder):
    files = sorted(folder.glob("*/*/diffusion_pytorch_model.safetensors"))
    assert len(files) == 2
    return [{name: tensor.tolist() for name, tensor in load_file(file).items()} for file in files]


def classifier(folder):
    (file,) = folder.glob("*/diffusion_pytorch_model.safetensors")
    return load_file(file)

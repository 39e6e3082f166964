"""scripts/compare.py on tiny runs: it reports, goes on where it was, and says what failed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.comparison.made_up import results
from tests.runs import TINY
from var_pe import settings
from var_pe.comparison.results import without_times
from var_pe.comparison.writing import write_report
from var_pe.settings.command_line import overrides_first
from var_pe.stages.config import Config

SCRIPTS = Path(__file__).parents[2] / "scripts"
SHORT = [
    *TINY, "data.shapes_train=64", "data.shapes_test=48",
    "tokenizer_training.steps=1", "tokenizer_training.batch=8", "tokenizer_training.validation_images=8",
    "tokenizer_training.trackers=[]", "generator_training.steps=3", "generator_training.batch=8",
    "generator_training.log_every=1", "generator_training.validation_images=8",
    "generator_training.trackers=[]", "sampling.images_per_class=1",
]  # fmt: skip


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from compare import main

    return main


def test_settings_may_follow_the_seeds():
    """argparse would read the documented order `--seeds 0 1 key=value` as a third seed."""
    argv = ["--encodings", "mixed(learned=0.7, none=0.3)", "--seeds", "0", "1", "run=x", "data.limit=3"]
    assert overrides_first(argv) == ["run=x", "data.limit=3", *argv[:5]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: give --study FILE, or --config FILE with --encodings LINE"),
        (
            ["--config", "shapes_learned"],
            "--config shapes_learned alone names no encodings to compare: give --study FILE, or",
        ),
        (["--config", "shapes_learned", "--encodings", "none", "--publish", "x"], "give --report JSON, too"),
    ],
)
def test_what_a_command_line_lacks_is_said_with_every_way_to_call_it(compare, words, said, capsys):
    """Most studies are files: that --encodings is missing would be half of the answer."""
    with pytest.raises(SystemExit):
        compare(words)
    assert said in capsys.readouterr().err


def test_help_shows_every_way_to_call_it(compare, capsys):
    """A newcomer reads the first lines alone."""
    with pytest.raises(SystemExit):
        compare(["--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    assert all(way in usage for way in ("--study FILE", "--encodings LINE", "--report JSON", "--publish"))


def test_files_are_named_as_the_folder_was_given(compare, tmp_path, capsys):
    """`../../tmp/x` for a folder that was given as `/tmp/x` sends a reader looking."""
    write_report(results(learned=[3.0, 3.1], none=[3.4, 3.5]), tmp_path / "made")
    compare(["--report", str(tmp_path / "made" / "comparison.json"), "--publish", str(tmp_path / "page")])
    assert str(tmp_path / "page.md") in capsys.readouterr().out.splitlines()


def test_a_comparison_reports_and_a_second_call_reuses_every_run(compare, tmp_path, capsys):
    """An interrupted comparison goes on by the same command; a seed added later costs that seed alone."""
    what = ["--config", "shapes_learned", "--encodings", "learned", "none", "--output", str(tmp_path / "out")]
    settings = [f"tokenizer_run={tmp_path / 'tokenizer'}", *SHORT]
    compare([*what, "--seeds", "0", *settings])
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    results = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cell.json")}
    capsys.readouterr()
    compare([*what, "--seeds", "0", "1", *settings])
    assert capsys.readouterr().out.count("training the") == 2
    assert len(results) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in (made | results).items())

    read = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [(cell["arm"], cell["seed"]) for cell in read["cells"]] == [
        ("learned", 0), ("learned", 1), ("none", 0), ("none", 1),
    ]  # fmt: skip
    values = read["cells"][0]["values"]
    assert values["encoding_parameters"] == 5 * 16
    assert {
        "validation/loss",
        "recall_efficientnet_lite0",
        "token_histogram_distance/level_1",
    } <= values.keys()
    assert len(read["cells"][0]["nats_by_place"]) == 5
    assert sum(read["cells"][0]["nats_by_place"]) / 5 == pytest.approx(values["validation/loss"], rel=1e-4)
    assert {"seconds_per_step", "peak_memory_gb"} <= next(iter(read["times"]["cells"].values())).keys()
    assert read["floor"].keys() >= {"frechet_distance_efficientnet_lite0", "token_histogram_distance"}


def study(folder: Path, name: str, *more: str) -> Path:
    """A study's file of two arms, the second of which diverges."""
    file = folder / f"{name}.yaml"
    settings = [f"tokenizer_run={folder / 'tokenizer'}", *SHORT]
    lines = [
        "config: shapes_learned.yaml", f"output: {folder / name}", "timing_rounds: 0",
        "check_extractors: false", "threads: 1", f"settings: {json.dumps(settings)}", *more,
    ]  # fmt: skip
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_cell_that_fails_is_recorded_and_not_tried_again_in_silence(compare, tmp_path, capsys):
    """One bad arm must cost neither the others nor, every time that the study goes on, its own training."""
    arms = "arms: [[learned, seed=0], [diverging, generator_training.learning_rate=1e+30]]"
    file = str(study(tmp_path, "failing", arms))
    with pytest.raises(SystemExit) as ended:
        compare(["--study", file])
    assert ended.value.code == 1
    read = json.loads((tmp_path / "failing/comparison.json").read_text())
    good, bad = read["cells"]
    assert good["values"]
    assert "step" in bad["failed"]
    assert "Failed: diverging" in (tmp_path / "failing/comparison.md").read_text()

    capsys.readouterr()
    with pytest.raises(SystemExit):
        compare(["--study", file])
    assert "training the" not in capsys.readouterr().out
    compare(["--study", file, "--dry-run"])
    said = capsys.readouterr().out
    assert "cells: 1 finished, 1 failed" in said


@pytest.mark.slow
def test_each_arm_gets_its_best_rate_and_guidance(compare, tmp_path):
    """Chosen by what the study is not judged by, with a seed that the study does not use."""
    more = [
        "arms: [[learned, generator.encoding=learned]]",
        "learning_rates: [1e-9, 1e-2, 1e+30]",
        "guidances: [0.0, 3.0]",
    ]
    compare(["--study", str(study(tmp_path, "chosen", *more))])
    read = json.loads((tmp_path / "chosen/comparison.json").read_text())
    chosen = read["arms"][0]["chosen"]
    assert chosen["learning_rate"] == 1e-2  # the other one learns nothing
    assert chosen["nats"]["0.01"] < chosen["nats"]["1e-09"]
    assert chosen["diverged"] == ["1e+30"]  # one bad rate of a grid must not end the study
    assert "1e+30: diverged" in (tmp_path / "chosen/comparison.md").read_text()
    best = min(chosen["distances"], key=chosen["distances"].get)
    assert chosen["guidance"] == float(best)

    config = settings.load(Config, Path(read["cells"][0]["run"]) / "config.yaml")
    assert config.generator_training.learning_rate == 1e-2
    assert config.sampling.guidance_scale == chosen["guidance"]


@dataclass(frozen=True)
class Whole:
    """A study that ran in one process without a stop."""

    numbers: str
    seconds: float


TWO_ARMS = "arms: [[learned, generator.encoding=learned], [none, generator.encoding=none]]"
AT_OTHERS = "other_sizes: [[[1, 2], [2, 4]]]"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    subprocess.run(command(study(folder, "whole", TWO_ARMS, AT_OTHERS)), check=True)
    return Whole(numbers(folder), time.monotonic() - began)


def numbers(folder: Path) -> str:
    """All of a study's results but times and dates, the words that it was called by and its folder."""
    read = without_times(json.loads((folder / "whole/comparison.json").read_text()))
    del read["command"]
    return json.dumps(read).replace(str(folder), "FOLDER")


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_numbers(whole, tmp_path):
    """Whatever was going on: encoding, training, drawing, scoring, writing."""
    killed = study(tmp_path, "whole", TWO_ARMS, AT_OTHERS)
    chance = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(command(killed, "--jobs", "2"), start_new_session=True)
        time.sleep(chance.uniform(0.1, 0.7) * whole.seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command(killed, "--jobs", "2"), check=True)
    assert numbers(tmp_path) == whole.numbers


@pytest.mark.slow
def test_a_study_of_two_launched_processes_ends_with_the_same_numbers(whole, tmp_path):
    """One cell a GPU: who did which must not be seen in the results."""
    words = command(study(tmp_path, "whole", TWO_ARMS, AT_OTHERS))[1:]
    config = SCRIPTS.parent / "configs/accelerate/cpu_2_processes.yaml"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", f"--config_file={config}", f"--main_process_port={port}"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, *launcher, *words], env=environment, check=True)
    assert numbers(tmp_path) == whole.numbers


@pytest.mark.slow
def test_a_study_whose_hours_are_over_saves_and_goes_on_by_the_same_command(whole, tmp_path):
    """A night's machine is given back in the morning."""
    file = study(tmp_path, "whole", TWO_ARMS, AT_OTHERS)
    hours = f"hours={0.3 * whole.seconds / 3600:.5f}"
    stopped = subprocess.run(command(file, hours), capture_output=True, text=True, check=False)
    assert stopped.returncode in (143, -signal.SIGTERM)  # in a training, which saves, and outside of one
    assert "are over; to go on, run the same command again" in stopped.stderr
    subprocess.run(command(file), check=True)
    assert numbers(tmp_path) == whole.numbers


def command(file: Path, *words: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "compare.py"), "--study", str(file), *words]

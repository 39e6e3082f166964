"""Whether a checkout does, to the bit, what another did: for changes that may move code but no number.

    python tests/same_bits.py record OUT.json [--checkout DIR] [--work DIR]  # before the change, and after it
    python tests/same_bits.py compare BEFORE.json AFTER.json
    python tests/same_bits.py reopen OLD_WORK_DIR [--checkout DIR]

`record` runs the scripts of a checkout on tiny settings, in minutes: trains tokenizers, generators and
classifiers (in one process, in two, killed and resumed), draws, edits, scores, converts a VAR model, and says
what every config amounts to. Nothing is imported from the package, so that modules may move. What it finds is
kept as text, of tensors and pixels as their SHA-256, and `compare` shows which lines differ. Two records can
only agree when they were made on one kind of processor with the same libraries. With `--parts uses others`
it leaves out what takes longest, the runs of two processes and those that are killed.

`reopen` asks whether the runs that an older checkout left can still be used: it goes on in a copy of the
folder given as --work to `record`, with the finished ones (the parts `uses` and `others` must be there) and
with those killed half-way. The latter are refused where the two checkouts compute a training step by
different rules of numbers (docs/method.md).
"""

import argparse
import contextlib
import difflib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
LIBRARIES = ("torch", "torchvision", "numpy", "diffusers", "accelerate", "safetensors", "scipy", "pillow")
RECORD = "record.json"  # the copy that stays in the work folder, for `reopen`
BEGAN = time.monotonic()

# What may differ between two equal runs, and is left out; all else in these files is compared.
TIMINGS = (
    "images_per_second",
    "minutes_left",
    "peak_memory_gb",
    "validation_seconds",
)  # of a line of log.jsonl
NOT_SCORES = ("versions", "seconds")  # anywhere in metrics.json and likelihood.json
NOT_SETTINGS = ("_diffusers_version",)  # of config.json and model_index.json
MODULES = re.compile(
    r"\bvar_pe(\.\w+)+"
)  # in model_index.json and the card: where a class is, not what it is

# Every case runs in a folder of its own under the same relative names: no path of it gets into a file.
FOLDERS = ("run=run", "tokenizer_run=tokenizer")
DATA = (
    "data.shapes_train=192",
    "data.shapes_test=48",
    "data.framing=crop",
    "data.flip=true",
    "data.resize_factor=1.5",
)
SEVERAL = "[[1, 2, 3, 4], [1, 2, 4], [1, 2, 3, 4, 5], [[1, 1], [2, 3], [4, 6]]]"
TOKENIZER = (
    "tokenizer.channels=16",
    "tokenizer.norm_groups=8",
    "tokenizer.codebook_size=32",
    "tokenizer_training.steps=80",
    "tokenizer_training.batch=8",
    "tokenizer_training.accumulate=2",
    "tokenizer_training.learning_rate=4e-3",
    "tokenizer_training.precision=float32",
    "tokenizer_training.ema=0.9",
    "tokenizer_training.restart.every=8",
    "tokenizer_training.restart.below=0.5",
    "tokenizer_training.restart.memory=10",
    "tokenizer_training.log_every=3",
    "tokenizer_training.save_every=10",
    "tokenizer_training.validate_every=40",
    "tokenizer_training.validation_images=16",
    f"tokenizer_training.pyramids={SEVERAL}",
)
GENERATOR = (
    "generator.dim=32",
    "generator.depth=2",
    "generator.num_heads=2",
    "generator.drop_path=0.1",
    "generator.dropout=0.1",
    "generator.adaln_init=0.5",  # gates near 0, as they start otherwise, would hide most of the network
    "generator_training.steps=40",
    "generator_training.batch=8",
    "generator_training.accumulate=2",
    "generator_training.learning_rate=3e-3",
    "generator_training.precision=float32",
    "generator_training.ema=0.9",
    "generator_training.label_drop=0.3",
    "generator_training.views=2",
    "generator_training.log_every=1",
    "generator_training.save_every=10",
    "generator_training.validate_every=20",
    "generator_training.validation_images=16",
)
MAIN = ("--config", "shapes_mixed.yaml", *FOLDERS, *DATA, *TOKENIZER, *GENERATOR)
CLASSIFIER = (
    "--config",
    "shapes_mixed.yaml",
    "--stage",
    "classifier",
    *FOLDERS,
    *DATA,
    "run=vit",
    "classifier={}",
    "classifier.encoding=learned + rope + peg",
    "classifier.dim=32",
    "classifier.depth=3",
    "classifier.num_heads=2",
    "classifier.patch_size=8",
    "classifier.registers=1",
    "classifier.dropout=0.1",
    "classifier.drop_path=0.2",
    "classifier_training.steps=80",
    "classifier_training.batch=8",
    "classifier_training.accumulate=2",
    "classifier_training.learning_rate=3e-3",
    "classifier_training.precision=float32",
    "classifier_training.ema=0.9",
    "classifier_training.layer_decay=0.75",
    "classifier_training.label_smoothing=0.1",
    "classifier_training.log_every=3",
    "classifier_training.save_every=10",
    "classifier_training.validate_every=40",
    "classifier_training.validation_images=16",
)

# Further runs beside the main one. The first brings a tokenizer of its own, trained in bf16.
OTHERS = {
    "learned_bf16": (
        *MAIN,
        "run=learned_bf16",
        "tokenizer_run=tokenizer_bf16",
        "generator.encoding=learned",
        "tokenizer_training.pyramids=[]",
        "tokenizer_training.precision=bf16",
        "generator_training.precision=bf16",
    ),
    "rope_peg": (
        *MAIN,
        "run=rope_peg",
        "generator.encoding=rope + peg",
        "generator.level_embedding=sinusoidal",
        "generator_training.views=0",
        f"generator_training.pyramids={SEVERAL}",
    ),
    "relative_bias": (
        *MAIN,
        "run=relative_bias",
        "generator.encoding=relative_bias",
        "generator.shared_adaln=true",
        "generator_training.views=1",
        "generator_training.schedule=linear",
    ),
    "vit_moved": (
        *CLASSIFIER,
        "run=vit_moved",
        "model.init_from=vit",
        "data.height=64",
        "data.width=16",
        "classifier_training.unfreeze_every=16",
        "classifier_training.rand_augment=9",
        "classifier_training.mixup=0.8",
    ),
}
SAMPLER = (
    "sampling.images_per_class=4",  # 12 classes: 48 images
    "sampling.guidance_scale=2.0",
    "sampling.top_k=20",
    "sampling.top_p=0.9",
    "sampling.temperature=[1.0, 1.0, 0.9, 0.8]",
    "sampling.seed=3",
)

# Configs whose plan needs something that is not in a checkout.
PLANNED_WITH = {"fashion_vit_56.yaml": ("model.init_from=null",)}  # a trained classifier
PLAN_ALL = """
import contextlib, io, json, runpy, sys
script, scripts, cases = json.loads(sys.stdin.read())
sys.path.insert(0, scripts)
plans = {}
for name, words in cases.items():
    sys.argv, said = [script, *words], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            print("exit", ended.code)
    plans[name] = said.getvalue()
print(json.dumps(plans))
"""

Texts = dict[str, str]  # what was found, by name


class Failed(Exception):
    """A command failed, or did what it must not."""


def say(message: str) -> None:
    print(f"{time.monotonic() - BEGAN:5.0f} s  {message}", flush=True)


# -- Reading what a run left ------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tensors_in(file: Path) -> str:
    """A line for each tensor of a safetensors file, by name; the header's order and notes do not count."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    lines = []
    for name, entry in sorted(header.items()):
        first, last = entry["data_offsets"]
        shape = "x".join(map(str, entry["shape"])) or "scalar"
        lines.append(f"{name} {entry['dtype']} {shape} {sha256(data[start + first : start + last])}")
    return "\n".join(lines)


def pictures_in(folder: Path) -> str:
    """A line for each PNG below a folder, in order, with the hash of its pixels."""
    lines = []
    for file in sorted(folder.rglob("*.png")):
        with Image.open(file) as picture:
            size = f"{picture.width}x{picture.height}"
            name = re.sub(
                r"^(\d{4,})_[^/]*", r"\1", str(file.relative_to(folder))
            )  # without the class's name
            lines.append(f"{name} {picture.mode} {size} {sha256(picture.tobytes())}")
    if not lines:
        raise Failed(f"no pictures in {folder}")
    return "\n".join(lines)


def without(value: Any, keys: Sequence[str]) -> Any:
    """A JSON value less the entries under these keys, at any depth."""
    if isinstance(value, dict):
        return {key: without(entry, keys) for key, entry in value.items() if key not in keys}
    return [without(entry, keys) for entry in value] if isinstance(value, list) else value


def json_in(file: Path, left_out: Sequence[str] = ()) -> str:
    return json.dumps(without(json.loads(file.read_text()), left_out), indent=1, sort_keys=True)


def log_in(file: Path) -> list[dict[str, Any]]:
    """The entries of a log, less a line that is being written or that a kill cut short."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def model_in(folder: Path) -> Texts:
    """A saved model: its weights, its settings, and the notes of its training."""
    found: Texts = {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            found[file.name] = tensors_in(file)
        elif file.suffix == ".json":
            found[file.name] = json_in(file, NOT_SETTINGS)
    if not any(name.endswith(".safetensors") for name in found):
        raise Failed(f"no weights in {folder}")
    return {f"{folder.name}/{name}": text for name, text in found.items()}


def run_in(folder: Path) -> Texts:
    """A run: its models, settings, log without timings, and the pictures drawn while it was trained."""
    found: Texts = {}
    for model in ("tokenizer", "generator", "classifier"):
        if (folder / model).is_dir():
            found |= model_in(folder / model)
    found["config.yaml"] = (folder / "config.yaml").read_text()
    entries = [without(entry, TIMINGS) for entry in log_in(folder / "log.jsonl")]
    found["log.jsonl"] = "\n".join(json.dumps(entry) for entry in entries)
    found["samples"] = pictures_in(folder / "samples")
    return {f"{folder.name}/{name}": text for name, text in found.items()}


def pipeline_in(folder: Path) -> Texts:
    """A saved pipeline: both models, the index and the card."""
    found = model_in(folder / "tokenizer") | model_in(folder / "transformer")
    found["model_index.json"] = MODULES.sub("var_pe", json_in(folder / "model_index.json", NOT_SETTINGS))
    if (folder / "README.md").exists():
        found["README.md"] = MODULES.sub("var_pe", (folder / "README.md").read_text())
    return {f"{folder.name}/{name}": text for name, text in found.items()}


def under(name: str, texts: Texts) -> Texts:
    return {f"{name}: {key}": text for key, text in texts.items()}


# -- Running scripts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkout:
    """The code under test. Its scripts run in folders elsewhere and find its package by PYTHONPATH."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",  # the checkout stays as it is
            "OMP_NUM_THREADS": "1",  # sums over several threads are rounded differently
            "ACCELERATE_USE_CPU": "true",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
        }

    def script(self, *names: str) -> str:
        """The first of these that there is: a script may have been renamed."""
        for name in names:
            if (file := self.folder / "scripts" / name).exists():
                return str(file)
        raise Failed(f"{self.folder / 'scripts'} has no {' or '.join(names)}")

    def python(self, folder: Path, *words: str, stdin: str | None = None) -> str:
        """Runs Python in a folder; what it printed.

        Raises:
            Failed: it ended with an error, or resumed a run under other circumstances than it began in.
        """
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or "other circumstances" in done.stdout + done.stderr:
            shown = " ".join(words)[:300]
            raise Failed(
                f"{shown} ... ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
            )
        return done.stdout

    def check_package(self, folder: Path) -> None:
        """An installed package must not stand in for the checkout's."""
        said = self.python(folder, "-c", "import var_pe; print(var_pe.__file__)").strip()
        if not Path(said).resolve().is_relative_to(self.folder):
            raise Failed(f"var_pe is {said}, which is not in {self.folder}")

    def train(self, folder: Path, *words: str) -> None:
        self.python(folder, self.script("train.py"), *words)

    def train_in_two_processes(self, folder: Path, *words: str) -> None:
        config = self.folder / "configs" / "accelerate" / "cpu_2_processes.yaml"
        launch = ("-m", "accelerate.commands.launch", f"--config_file={config}")
        port = f"--main_process_port={free_port()}"
        self.python(folder, *launch, port, self.script("train.py"), *words)

    def train_and_kill(self, folder: Path, run: str, model: str, *words: str) -> None:
        """Trains, and kills the process by SIGKILL a little after the first checkpoint of `folder/run`.

        Should the model be finished before the kill comes, it is tried again.
        """
        for _ in range(5):
            with open(folder / "killed.txt", "w") as said:
                process = subprocess.Popen(
                    [sys.executable, self.script("train.py"), *words],
                    cwd=folder,
                    env=self.environment,
                    stdout=said,
                    stderr=said,
                )
                while process.poll() is None and not is_beyond_checkpoint(folder / run):
                    time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
                process.wait()

            if process.returncode > 0:
                raise Failed(f"training failed:\n{(folder / 'killed.txt').read_text()[-3000:]}")
            if not (folder / run / model).exists():
                return
            shutil.rmtree(folder / run)
        raise Failed(f"{folder / run} was finished before it could be killed, five times")


def checkpoint_of(run: Path) -> int:
    """The step of a run's newest whole checkpoint, 0 if there is none."""
    return max([int(path.name[5:]) for path in run.glob("checkpoints/step_*[0-9]")], default=0)


def is_beyond_checkpoint(run: Path) -> bool:
    """Whether a run has logged a step that it would lose if it were killed now."""
    step = checkpoint_of(run)
    return step > 0 and any(entry["step"] > step for entry in log_in(run / "log.jsonl"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


# -- What is recorded -------------------------------------------------------------------------------------


def main_runs(folder: Path, names: Sequence[str] = ("tokenizer", "run", "vit")) -> Texts:
    found: Texts = {}
    for name in names:
        found |= run_in(folder / name)
    return found


def one_process(checkout: Checkout, work: Path) -> Texts:
    folder = work / "one"
    folder.mkdir()
    checkout.train(folder, *MAIN)
    checkout.train(folder, *CLASSIFIER)
    say("tokenizer, generator and classifier are trained in one process")
    return under("one process", main_runs(folder))


def two_processes(checkout: Checkout, work: Path) -> Texts:
    folder = work / "two"
    folder.mkdir()
    checkout.train_in_two_processes(folder, *MAIN)
    checkout.train_in_two_processes(folder, *CLASSIFIER)
    say("the same are trained in two processes")
    return under("two processes", main_runs(folder))


@dataclass(frozen=True)
class Half:
    """A training that is killed: where the folder is kept as it was then, and what its command finishes."""

    kept: str
    run: str
    model: str
    words: tuple[str, ...]
    finishes: tuple[str, ...]


# In this order: the second command resumes what the first one left.
HALVES = (
    Half("half_tokenizer", "tokenizer", "tokenizer", MAIN, ("tokenizer", "run")),
    Half("half_generator", "run", "generator", MAIN, ("tokenizer", "run")),
    Half("half_classifier", "vit", "classifier", CLASSIFIER, ("vit",)),
)


def killed(checkout: Checkout, work: Path) -> Texts:
    """The same runs, killed in each of their trainings; the half-finished folders are kept for `reopen`."""
    folder = work / "killed"
    folder.mkdir()
    for half in HALVES:
        checkout.train_and_kill(folder, half.run, half.model, *half.words)
        shutil.copytree(folder, work / half.kept)
        say(f"the {half.model}'s training is killed after step {checkpoint_of(folder / half.run)}")
    checkout.train(folder, *MAIN)
    checkout.train(folder, *CLASSIFIER)
    say("the killed runs are finished")
    return under("killed and resumed", main_runs(folder))


def other_runs(checkout: Checkout, work: Path) -> Texts:
    """Other encodings, several pyramids, bf16, and a classifier moved to another size."""
    folder, found = work / "one", Texts()
    for name, words in OTHERS.items():
        checkout.train(folder, *words)
        found |= run_in(folder / name)
        say(f"{name} is trained")
    found |= run_in(folder / "tokenizer_bf16")
    wide = ("--run", "rope_peg", "--size", "48", "32", "--output", "drawn_48x32")
    checkout.python(folder, checkout.script("sample.py"), *wide, "sampling.images_per_class=1")
    found["rope_peg drawn at 48x32"] = pictures_in(folder / "drawn_48x32" / "images")
    return under("other runs", found)


def draw(checkout: Checkout, folder: Path, output: str, *source: str) -> Texts:
    """48 images of a run or a pipeline, and the picture of all."""
    checkout.python(folder, checkout.script("sample.py"), *source, "--output", output, *SAMPLER)
    return {f"{output} images": pictures_in(folder / output)}


def evaluate(checkout: Checkout, folder: Path) -> Texts:
    """The scores of the run's images and of the tokenizer, by the features of the run's classifier."""
    script = checkout.script("evaluate.py")
    checkout.python(folder, script, "--run", "run", "--features", "vit", *SAMPLER)
    checkout.python(folder, script, "--run", "run", "--of", "tokenizer", "--features", "vit")
    checkout.python(folder, script, "--run", "vit", "--of", "classifier", "--size", "48", "32")
    files = [f"{run}/metrics.json" for run in ("run", "tokenizer", "vit")]
    return {name: json_in(folder / name, NOT_SCORES) for name in files}


def likelihood(checkout: Checkout, folder: Path) -> Texts:
    script = checkout.script("likelihood.py", "score.py")
    checkout.python(folder, script, "--run", "run", "--images", "24", "--batch", "10")
    return {"run/likelihood.json": json_in(folder / "run" / "likelihood.json", NOT_SCORES)}


def edit(checkout: Checkout, folder: Path) -> Texts:
    words = ("--images", "0", "1", "--mask", "top", "--class", "ring", "3", "--each", "2")
    checkout.python(folder, checkout.script("edit.py"), "--run", "run", *words, "--output", "edited")
    return {"edited pictures": pictures_in(folder / "edited")}


def uses(checkout: Checkout, work: Path) -> Texts:
    """What is done with the main run once it is trained."""
    folder = work / "one"
    found = draw(checkout, folder, "drawn", "--run", "run")
    sample = checkout.script("sample.py")
    checkout.python(folder, sample, "--run", "run", "--levels", "levels/levels.png", *SAMPLER)
    found["picture of levels"] = pictures_in(folder / "levels")
    say("images are drawn")
    found |= evaluate(checkout, folder)
    say("images, tokenizer and classifier are scored")
    found |= likelihood(checkout, folder) | edit(checkout, folder)
    say("likelihoods are measured, pictures are edited")
    checkout.python(folder, sample, "--run", "run", "--save-pipeline", "saved")
    found |= pipeline_in(folder / "saved")
    found |= draw(checkout, folder, "drawn_by_pipeline", "--pipeline", "saved")
    say("a pipeline is saved and draws")
    return under("uses", found)


def write_var_files(folder: Path) -> None:
    """A tokenizer and a transformer as the public VAR code has them, with the tests' stand-in weights."""
    (case_file,) = HERE.rglob("var_small.json")
    case, scope = json.loads(case_file.read_text()), dict[str, Any]()
    exec((case_file.parent / "weights.py").read_text(), scope)
    level_L = np.repeat(np.arange(len(case["patch_nums"])), np.square(case["patch_nums"]))
    mask_LL = np.where(level_L[:, None] >= level_L, 0, -np.inf).astype(np.float32)
    fixed = {"lvl_1L": level_L[None], "attn_bias_for_masking": mask_LL[None, None]}

    for name, file in (("vqvae", "vae"), ("var", "var")):
        state = {}
        for key, (shape, _) in case["state_dict"][name].items():
            if key.endswith("ema_vocab_hit_SV"):  # statistics that a trained tokenizer has
                state[key] = np.random.Generator(np.random.PCG64(0)).random(shape, np.float32)
            elif key.endswith("zero_k_bias"):
                state[key] = np.zeros(shape, np.float32)
            else:
                state[key] = fixed[key] if key in fixed else scope["fill"](key, tuple(shape)).numpy()
        save_file(state, folder / f"{file}.safetensors")


def checkpoint_in(file: Path) -> str:
    """A line for each tensor of a file of torch.save, as `tensors_in`."""
    import torch  # seconds that nothing else here needs

    lines = []
    for name, tensor in sorted(torch.load(file, weights_only=True).items()):
        value = tensor.contiguous().numpy()
        lines.append(f"{name} {value.dtype} {value.shape} {sha256(value.tobytes())}")
    return "\n".join(lines)


def var_model(checkout: Checkout, work: Path) -> Texts:
    """A VAR model to a pipeline, which draws, and back."""
    folder = work / "var"
    folder.mkdir()
    write_var_files(folder)
    convert = checkout.script("convert.py")
    given = ("--vqvae", "vae.safetensors", "--var", "var.safetensors", "--patch-nums", "1", "2", "3", "4")
    checkout.python(folder, convert, *given, "--output", "pipeline")
    checkout.python(folder, convert, "--to-var", "pipeline", "--output", "back")
    found = pipeline_in(folder / "pipeline")
    found |= {f"back/{name}": checkpoint_in(folder / "back" / name) for name in ("vae.pth", "var.pth")}
    found |= draw(checkout, folder, "drawn", "--pipeline", "pipeline")
    say("a VAR model is converted there and back, and draws")
    return under("VAR", found)


def plans(checkout: Checkout, work: Path) -> Texts:
    """What --dry-run says of every config. Sets that are not on this machine count as published."""
    folder = work / "plans"
    folder.mkdir()
    names = sorted(file.name for file in (checkout.folder / "configs").glob("*.yaml"))
    cases = {name: ["--config", name, "--dry-run", *PLANNED_WITH.get(name, ())] for name in names}
    script = checkout.script("train.py")
    given = json.dumps([script, str(Path(script).parent), cases])
    found: Texts = json.loads(checkout.python(folder, "-c", PLAN_ALL, stdin=given))
    say(f"{len(found)} configs are planned")
    return under("plan", found)


def circumstances(checkout: Checkout) -> dict[str, str]:
    """What a record may depend on besides the code."""
    commit = subprocess.run(
        ["git", "-C", str(checkout.folder), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = {"python": platform.python_version(), "machine": processor()}
    found |= {name: metadata.version(name) for name in LIBRARIES}
    return found | {"commit": commit.stdout.strip() or "unknown"}


def processor() -> str:
    """The processor's name and whether it multiplies bf16 itself, which is rounded differently where not."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*: (.*)", text)
        flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in text]
        return " ".join([name[1] if name else "", *flags])
    return platform.machine()


def check_resumed(texts: Texts) -> None:
    """A run that was killed and resumed must be the one that nobody killed.

    Raises:
        Failed: they differ, in weights or in anything else.
    """
    for name, text in texts.items():
        which, _, rest = name.partition(": ")
        if which == "killed and resumed" and text != texts[f"one process: {rest}"]:
            raise Failed(f"{name} is not that of the run that nobody killed")


# What a record is made of besides the main run in one process, which is always trained
ALONE = {"killed": killed, "two": two_processes, "var": var_model, "plans": plans}
# What is done with the main run's tokenizer, generator and classifier
AFTER = {"uses": uses, "others": other_runs}


def record(checkout: Checkout, work: Path, parts: Sequence[str] = (*ALONE, *AFTER)) -> Texts:
    """All of it, or some parts. Two commands run at a time; what uses the main run waits for it."""
    checkout.check_package(work)
    found = Texts()
    with ThreadPoolExecutor(2) as pool:

        def start(part: Callable[[Checkout, Path], Texts]) -> Future[Texts]:
            return pool.submit(part, checkout, work)

        one = start(one_process)
        waiting = [start(part) for name, part in ALONE.items() if name in parts]
        try:
            found |= one.result()
            waiting += [start(part) for name, part in AFTER.items() if name in parts]
            for future in waiting:
                found |= future.result()
                check_resumed(found)
        finally:
            for future in waiting:
                future.cancel()  # what has not begun is not begun after a failure
    return found


# -- Reopening what an older checkout left ----------------------------------------------------------------


def stamps(folder: Path) -> dict[str, int]:
    """When the weights and logs below a folder were last written."""
    files = [*folder.rglob("*.safetensors"), *folder.rglob("log.jsonl")]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """What is finished must be loaded, not trained again, even to the same weights.

    Raises:
        Failed: weights or logs were written.
    """
    before = stamps(folder)
    yield
    if stamps(folder) != before:
        raise Failed(f"{folder} was finished, but something in it was trained or written again")


def reopen_finished(checkout: Checkout, work: Path) -> Texts:
    """The train commands again find nothing to do, and everything else goes on from the old runs."""
    folder = work / "one"
    with untouched(folder):
        for words in (MAIN, CLASSIFIER, *OTHERS.values()):
            checkout.train(folder, *words)
    say("the finished runs are taken as finished")
    found = draw(checkout, folder, "drawn_again", "--run", "run")
    found["drawn images"] = found.pop("drawn_again images")
    for file in sorted((folder / "drawn_by_pipeline" / "images").rglob("*.png"))[::2]:
        file.unlink()  # the old folder is filled up again, with what was there
    found |= draw(checkout, folder, "drawn_by_pipeline", "--pipeline", "saved")
    say("the old run and the old pipeline draw")
    found |= evaluate(checkout, folder) | likelihood(checkout, folder) | edit(checkout, folder)
    say("the old run is scored")
    return under("one process", main_runs(folder)) | under("uses", found)


def reopen_half(checkout: Checkout, work: Path) -> Texts:
    """Runs killed half-way go on from their last checkpoint and end as they should."""
    found = Texts()
    for half in HALVES:
        folder = work / half.kept
        if not folder.exists():
            continue  # the record was made without the part `killed`
        log, step = folder / half.run / "log.jsonl", checkpoint_of(folder / half.run)
        kept = [entry for entry in log_in(log) if entry["step"] <= step]
        caches = token_caches(folder)
        checkout.train(folder, *half.words)

        # Started afresh it would end with the same weights, but its log would hold other times.
        if not kept or log_in(log)[: len(kept)] != kept:
            raise Failed(f"{log.parent} did not go on from step {step}")
        if caches and token_caches(folder) != caches:
            raise Failed(f"{folder} has another token cache now: the old one was not found again")
        found |= under("killed and resumed", main_runs(folder, half.finishes))
        say(f"the {half.model}'s training went on from step {step}")
    return found


def token_caches(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("tokenizer/tokens/*")}


def reopen(checkout: Checkout, work: Path) -> Texts:
    checkout.check_package(work)
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(part, checkout, work) for part in (reopen_finished, reopen_half)]
        return parts[0].result() | parts[1].result()


# -- Comparing --------------------------------------------------------------------------------------------


def as_record(texts: Texts, about: dict[str, str]) -> dict[str, Any]:
    entries = {name: {"sha256": sha256(text.encode()), "text": text} for name, text in sorted(texts.items())}
    return {"about": about, "entries": entries}


def differences(before: dict[str, Any], after: dict[str, Any], names: Sequence[str]) -> int:
    """Prints of each name whether it is equal, and the first lines that are not; how many differ."""
    number = 0
    for name in names:
        texts = [side["entries"].get(name, {}).get("text") for side in (before, after)]
        if texts[0] == texts[1]:
            print(f"equal      {name}")
            continue
        number += 1
        print(f"DIFFERENT  {name}")
        if None in texts:
            print(f"    is only in the {'second' if texts[0] is None else 'first'} record")
            continue
        first, second = (text.splitlines() for text in texts)
        lines = difflib.unified_diff(first, second, n=0, lineterm="")
        changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        for line in changed[:6]:
            print(f"    {line[:200]}")
        if len(changed) > 6:
            print(f"    ... {len(changed) - 6} more lines")
    print(f"\n{len(names) - number} of {len(names)} equal, {number} different")
    return number


def warn_of_circumstances(before: dict[str, str], after: dict[str, str]) -> None:
    for name in before:
        if name != "commit" and before[name] != after.get(name):
            print(f"note: {name} was {before[name]} and is {after.get(name)}; the bits may differ by that")


def loaded(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


# -- The command line -------------------------------------------------------------------------------------


@contextlib.contextmanager
def work_folder(asked: Path | None) -> Iterator[Path]:
    """The folder asked for, new or empty, or one that is removed at the end.

    Raises:
        Failed: it holds something: old runs would be taken as finished.
    """
    if asked is None:
        with tempfile.TemporaryDirectory(prefix="same_bits_") as name:
            yield Path(name)
        return
    asked.mkdir(parents=True, exist_ok=True)
    if any(asked.iterdir()):
        raise Failed(f"--work {asked} is not empty; choose another folder or remove it")
    yield asked.resolve()


def record_command(given: argparse.Namespace) -> int:
    checkout = Checkout(given.checkout.resolve())
    about = circumstances(checkout)
    with work_folder(given.work) as work:
        found = as_record(record(checkout, work, given.parts), about)
        text = json.dumps(found, indent=1) + "\n"
        (work / RECORD).write_text(text)
    given.out.write_text(text)
    say(f"{len(found['entries'])} entries: {given.out}")
    return 0


def compare_command(given: argparse.Namespace) -> int:
    before, after = loaded(given.before), loaded(given.after)
    warn_of_circumstances(before["about"], after["about"])
    return int(differences(before, after, sorted(before["entries"].keys() | after["entries"].keys())) > 0)


def reopen_command(given: argparse.Namespace) -> int:
    checkout = Checkout(given.checkout.resolve())
    before, about = loaded(given.old / RECORD), circumstances(checkout)
    with tempfile.TemporaryDirectory(prefix="same_bits_") as name:
        work = Path(name) / "work"
        shutil.copytree(given.old, work)
        after = as_record(reopen(checkout, work), about)
    warn_of_circumstances(before["about"], about)
    return int(differences(before, after, list(after["entries"])) > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="record | compare | reopen")

    of_record = commands.add_parser("record", help="run a checkout's scripts and keep what they made")
    of_record.add_argument("out", type=Path, metavar="OUT.json")
    of_record.add_argument("--work", type=Path, help="keep the runs in this new folder, for reopen")
    of_record.add_argument(
        "--parts", nargs="+", choices=(*ALONE, *AFTER), default=(*ALONE, *AFTER), help="default: all"
    )
    of_record.set_defaults(command=record_command)

    of_compare = commands.add_parser("compare", help="say which entries of two records differ")
    of_compare.add_argument("before", type=Path)
    of_compare.add_argument("after", type=Path)
    of_compare.set_defaults(command=compare_command)

    of_reopen = commands.add_parser("reopen", help="go on with the runs that an older checkout left")
    of_reopen.add_argument("old", type=Path, metavar="OLD_WORK_DIR")
    of_reopen.set_defaults(command=reopen_command)

    for command in (of_record, of_reopen):
        command.add_argument("--checkout", type=Path, default=HERE.parent, help="default: this script's")
    given = parser.parse_args()
    try:
        return int(given.command(given))
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""What a config leads to is found out without building it: in little memory, however large."""

import json
import re
from math import prod
from pathlib import Path

import pytest
import torch

from var_pe import settings
from var_pe.processes import peak_memory, reset_peak_memory
from var_pe.stages.config import Config
from var_pe.stages.models import build_classifier, build_generator
from var_pe.stages.plan import plan

ROOT = Path(__file__).parents[2]
LARGE = ["data.source=shapes", "generator.dim=1920", "generator.depth=30", "generator.num_heads=30"]
ENCODING = [
    "generator.encoding=rope_mixed + log_cpb + pyramid_peg",
    "generator.level_embedding=sinusoidal",
]
SIZES = "generator_training.pyramids=[[1, 2, 3, 4], [1, 2, 3, 4, 6, 9, 13, 18, 24, 32]]"


def a_run_of_holes(folder: Path, kind: str, config: Config) -> None:
    """A trained run as far as headers tell: its weight file is as long as a real one and nearly empty."""
    with torch.device("meta"):
        build = build_generator if kind == "generator" else build_classifier
        model = build(config, 12)
    (folder / kind).mkdir(parents=True)
    model.save_config(folder / kind)

    header, grids, end = {}, {}, 0
    for name, value in model.state_dict().items():
        size = prod(value.shape) * value.element_size()
        words = {torch.float32: "F32", torch.int64: "I64"}
        header[name] = {"dtype": words[value.dtype], "shape": [*value.shape]}
        header[name]["data_offsets"] = [end, end + size]
        if name.endswith("grids_K2"):
            grids[end] = torch.tensor(model.pyramid.grids).numpy().tobytes()
        end += size

    text = json.dumps(header).encode()
    with open(folder / kind / "diffusion_pytorch_model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for start, data in grids.items():
            file.seek(8 + len(text) + start)
            file.write(data)


def memory_of_plan(config: Config, says: str) -> float:
    """The bytes that making a plan took at its height; the plan has the sentence asked for."""
    cpu = torch.device("cpu")
    if not reset_peak_memory(cpu):
        pytest.skip("this system does not restart the count of memory")
    before = peak_memory(cpu)
    assert says in plan(config)
    return peak_memory(cpu) - before


def test_a_generator_s_plan_reads_no_weights_and_makes_none(tmp_path):
    """Two billion parameters are 8 GB; whether they fit is in the first kilobytes of their file.

    It is asked about another pyramid, too: a bias on 2,240 tokens in 30 heads would be 0.6 GB.
    """
    file, trained = "shapes_learned.yaml", [*LARGE, *ENCODING]
    a_run_of_holes(tmp_path / "trained", "generator", settings.load(Config, file, trained))

    where = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}"]
    start = f"model.init_from={tmp_path / 'trained'}"
    config = settings.load(Config, file, [*trained, SIZES, *where, start])
    assert memory_of_plan(config, f"training starts from {tmp_path / 'trained'}") < 3e8
    assert "tokens: 2240 an image" in plan(config)


def test_nor_does_a_classifier_s_plan(tmp_path):
    file, trained = "shapes_vit.yaml", [word.replace("generator", "classifier") for word in LARGE]
    a_run_of_holes(tmp_path / "trained", "classifier", settings.load(Config, file, trained))

    where = [f"run={tmp_path / 'run'}", f"model.init_from={tmp_path / 'trained'}"]
    config = settings.load(Config, file, [*trained, "data.height=64", "data.width=64", *where])
    assert memory_of_plan(config, f"training starts from {tmp_path / 'trained'}") < 3e8


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["tokenizer.levels=[1,2,3,4]"],
            "30 tokens on cpu by plain products, 1 call a layer; each layer keeps 10.8 kB of scores an image",
        ),
        (
            ["tokenizer.levels=[1,2,3,4,5,6,8,10,13,16]", "data.height=128", "data.width=128"],
            "680 tokens on cpu by products on slices, computed twice, 4 calls a layer",
        ),
        (
            # 1 * 1 + 4 * 5 + 9 * 14 + 16 * 30 pairs
            ["tokenizer.levels=[1,2,3,4]", "generator.encoding=rope(unit=query)"],
            "30 tokens on cpu by plain products, 4 calls a layer; each layer keeps 7.52 kB of scores an "
            "image",
        ),
        (
            # 155^2 + 100 * 255 + 169 * 424 + 256 * 680 pairs, 4 bytes for each of 6 heads
            [
                "tokenizer.levels=[1,2,3,4,5,6,8,10,13,16]",
                "data.height=128",
                "data.width=128",
                "generator.encoding=learned + relative_bias",
            ],
            "680 tokens on cpu by products on slices, computed twice, 4 calls a layer; a bias of at most "
            "7.09 MB, held for one layer at a time or once for all",
        ),
        (
            # 1 * 1 + 4 * 5 + 9 * 8 + 16 * 8 pairs, 2 bytes for each of 6 heads
            ["tokenizer.levels=[1,2,3,4]", "generator.most_keys=8"],
            "30 tokens on cpu by plain products, 4 calls a layer, to at most 8 keys each; each layer keeps "
            "2.65 kB of scores an image",
        ),
    ],
    ids=["short", "long", "keys turned by query", "bias", "few keys"],
)
def test_a_plan_says_which_kernel_attention_takes_and_what_scores_cost(words, expected, monkeypatch):
    """On a machine without a GPU, in bf16; a bias costs flash attention, whatever else the line holds."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = [*words, "generator_training.precision=bf16"]
    said = plan(settings.load(Config, ROOT / "configs" / "shapes_learned.yaml", words))
    assert f"attention: {expected}\n" in said + "\n"
    assert ("flash attention is lost" in said) == ("bias" in expected)


def test_a_plan_counts_the_prefix_tokens_of_a_classifier():
    """16 patches, a class token, two registers and three prompts: one call for all."""
    words = ["classifier.pool=class_token", "classifier.registers=2", "classifier.patch_size=8"]
    said = plan(settings.load(Config, ROOT / "configs" / "shapes_vit.yaml", [*words, "classifier.prompts=3"]))
    assert "attention: 22 tokens on " in said


def test_prompts_beyond_all_memory_are_refused():
    """Before anything is built."""
    with pytest.raises(settings.ConfigError, match=r"classifier\.prompts=1000000000000, .* are built"):
        settings.load(Config, ROOT / "configs" / "shapes_vit.yaml", ["classifier.prompts=1000000000000"])


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("generator.encoding=-1", "generator.encoding '-1': '-1' is not name or name(option=value)"),
        (
            "classifier.encoding=lerned",
            "classifier.encoding 'lerned': there is no encoding 'lerned'; did you",
        ),
        (
            "classifier.encoding=rope(bse=3)",
            "classifier.encoding 'rope(bse=3)': unknown key bse of rope; did",
        ),
        (
            "classifier.patch_size=5",
            "classifier.patch_size must divide the sides of the images, got 5 for 32x32",
        ),
    ],
)
def test_what_a_model_refuses_is_said_with_the_whole_key(word, sentence):
    """`encoding` alone may be the generator's or the classifier's."""
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        plan(settings.load(Config, ROOT / "configs" / "shapes_vit.yaml", [word]))

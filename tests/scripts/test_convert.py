"""scripts/convert.py: files of the public VAR code become a pipeline folder, and one of ours its files."""

import json
import os
import pickle
import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.interop.vit.reference import loud
from var_pe.interop.var.conversion import to_var
from var_pe.interop.var.settings import LADDERS
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid
from var_pe.sampling.pipeline import VARPipeline

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def run(monkeypatch):
    """The script with these words, in this process."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from convert import main

    def call(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, words)])
        main()

    return call


@pytest.fixture
def sentence(run, capsys):
    """The one line that a refused call ends with."""

    def call(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            run(*words)
        assert ended.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    return call


@pytest.fixture
def files(golden, tmp_path) -> dict[str, Path]:
    """VAR's two files, with statistics as a trained tokenizer has them."""
    hits = {"quantize.ema_vocab_hit_SV": torch.rand(4, golden.vocab_size)}
    torch.save(golden.vqvae | hits, tmp_path / "vae.pth")
    torch.save(golden.var, tmp_path / "var.pth")
    return {"vqvae": tmp_path / "vae.pth", "var": tmp_path / "var.pth"}


def options(files: dict[str, Path], *more: object) -> list[object]:
    return ["--vqvae", files["vqvae"], "--var", files["var"], "--patch-nums", 1, "2", "3x3", 4, *more]


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("vae.pth", "var.pth"))


def test_a_converted_folder_draws_the_published_code_s_tokens(run, files, golden, tmp_path):
    """From the files to pictures by what a user does: convert, load, call."""
    run(*options(files, "--output", tmp_path / "new" / "pipeline"))
    assert list(tmp_path.rglob("*.bin")) == []
    pipeline = VARPipeline.from_pretrained(tmp_path / "new" / "pipeline", local_files_only=True)
    drawn = pipeline(
        golden.expected["labels"].tolist(), guidance_scale=golden.cfg, top_k=1, output_type="tokens"
    )
    assert torch.equal(drawn.images, golden.expected["greedy_tokens"])


def test_converted_and_back_every_bit_is_the_same(run, files, tmp_path):
    """Through both folders, statistics and all, as torch.load reads them."""
    run(*options(files, "--output", tmp_path / "pipeline"))
    run("--to-var", tmp_path / "pipeline", "--output", tmp_path / "back")
    for file in files.values():
        before, after = (torch.load(f, weights_only=True) for f in (file, tmp_path / "back" / file.name))
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert value.dtype == after[key].dtype, key
            assert torch.equal(value, after[key]), key


def test_a_model_of_our_own_goes_to_var(run, make_generator, make_tokenizer, tmp_path):
    """It never had VAR's statistics: the folder has no file of them."""
    pipeline = VARPipeline(make_tokenizer(channels=32, norm_groups=32), make_generator())
    pipeline.save_pretrained(tmp_path / "pipeline")
    run("--to-var", tmp_path / "pipeline", "--output", tmp_path / "back")
    for name, state in zip(("vae", "var"), to_var(pipeline.tokenizer, pipeline.transformer), strict=True):
        saved = torch.load(tmp_path / "back" / f"{name}.pth", weights_only=True)
        assert all(torch.equal(saved.pop(key), value) for key, value in state.items())
        assert not saved


def test_safetensors_and_training_checkpoints_are_read(run, golden, files, tmp_path):
    """`ar-ckpt-last.pth` holds the arguments of its run as plain values beside the weights."""
    run(*options(files, "--output", tmp_path / "plain"))
    trainer = {"config": {"patch_nums": (1, 2, 3, 4)}, "var_wo_ddp": golden.var, "var_opt": {"scaler": None}}
    torch.save({"epoch": 3, "iter": 0, "trainer": trainer, "args": {"depth": 2}}, tmp_path / "last.pth")
    save_file(torch.load(files["vqvae"], weights_only=True), tmp_path / "vae.safetensors")
    run(
        *options(
            {"vqvae": tmp_path / "vae.safetensors", "var": tmp_path / "last.pth"}, "--output", tmp_path / "x"
        )
    )
    weights = sorted(path.relative_to(tmp_path / "x") for path in (tmp_path / "x").rglob("*.safetensors"))
    assert len(weights) == 3  # tokenizer, its statistics, transformer
    for path in weights:
        one, other = load_file(tmp_path / "x" / path), load_file(tmp_path / "plain" / path)
        assert all(torch.equal(one[key], other.pop(key)) for key in one)
        assert not other


def test_the_published_ladder_needs_no_patch_nums(run, golden, files, stand_in, tmp_path):
    """And other token counts do: a guess would be a model that draws noise."""
    ladder, state = LADDERS[0], dict(golden.var)
    tokens, dim = Pyramid.square(*ladder).num_tokens, golden.embed_dim
    shapes = {
        "pos_1LC": (1, tokens, dim), "lvl_embed.weight": (10, dim), "lvl_1L": (1, tokens),
        "attn_bias_for_masking": (1, 1, tokens, tokens),
    }  # fmt: skip
    torch.save(state | stand_in(shapes, ladder), files["var"])
    run("--vqvae", files["vqvae"], "--var", files["var"], "--output", tmp_path / "pipeline")
    index = json.loads((tmp_path / "pipeline" / "transformer" / "config.json").read_text())
    assert index["levels"] == list(ladder)


def test_without_a_published_ladder_patch_nums_are_asked_for(sentence, files, tmp_path):
    said = sentence("--vqvae", files["vqvae"], "--var", files["var"], "--output", tmp_path / "out")
    assert (
        "has 30 tokens on 4 levels, unlike all published grids: give its own (patch_nums, --patch-nums)"
        in said
    )
    assert leftovers(tmp_path) == []


class Harmful:
    """Unpickled, it would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def flip(path: Path) -> None:
    """One bit in the middle, among the weights."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGED = "was not written by torch.save, or is damaged"
DAMAGE = {
    "text": (lambda path: path.write_text("not found\n" * 9), DAMAGED),
    "empty": (lambda path: path.write_bytes(b""), DAMAGED),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), DAMAGED),
    "a_bit": (flip, DAMAGED),
    "missing": (Path.unlink, "is not a file"),
    "code": (lambda path: torch.save({"w": Harmful(path.parent / "ran")}, path), "holds objects"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Harmful(path.parent / "ran"))), DAMAGED),
    "object": (lambda path: torch.save(torch.nn.ReLU(), path), r"objects .* \(torch.nn.modules."),
    "tensor": (lambda path: torch.save(torch.ones(2), path), "must map names to tensors, .* got Tensor"),
    "numbers": (lambda path: torch.save({"lr": 1.0}, path), "must map names to tensors, got lr: float"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("which", ["vqvae", "var"])
def test_a_bad_file_is_one_sentence_and_leaves_nothing(which, kind, files, sentence, tmp_path):
    damage, why = DAMAGE[kind]
    damage(files[which])
    said = sentence(*options(files, "--output", tmp_path / "out"))
    assert said.startswith("error: ")
    assert re.search(why, said)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kept", [300, 5_000, 40_000, 80_000])
def test_a_download_that_broke_off_is_called_damaged(kept, files, sentence, tmp_path):
    """Not `Invalid argument`, as of the second and third: who reads that doubts what was typed."""
    files["var"].write_bytes(files["var"].read_bytes()[:kept])
    assert f"{files['var']} {DAMAGED}" in sentence(*options(files, "--output", tmp_path / "out"))


def test_one_file_given_twice_is_named(files, sentence, tmp_path):
    for which, said in (
        ("vqvae", "VAR checkpoint is a tokenizer's"),
        ("var", "VQVAE checkpoint is a transf"),
    ):
        both = dict.fromkeys(files, files[which])
        assert f"the {said}" in sentence(*options(both, "--output", tmp_path / "out"))


@pytest.mark.parametrize("content", [b"", b"hello hello hello", None])
def test_a_bad_safetensors_file_is_one_sentence(content, files, sentence, tmp_path):
    path = tmp_path / "var.safetensors"
    save_file({"head.weight": torch.ones(4)}, path)
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    said = sentence(*options({**files, "var": path}, "--output", tmp_path / "out"))
    assert f"{path} is not a safetensors file, or a damaged one" in said


def test_an_existing_output_is_refused_and_kept(files, sentence, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    for words in (options(files), ["--to-var", tmp_path / "anything"]):
        assert "exists already; choose another or remove it" in sentence(*words, "--output", tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_a_kill_while_saving_leaves_no_output(run, files, tmp_path, monkeypatch):
    """A folder that is there is whole."""
    monkeypatch.setattr("var_pe.sampling.saved.save_hits", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        run(*options(files, "--output", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--vqvae", "x"], "give --vqvae and --var, or --to-var"),
        (["--to-var", "x", "--var", "y"], "--to-var takes no other option than --output"),
        (["--vqvae", "x", "--var", "y", "--patch-nums", "1", "two"], "a level is a side or ROWSxCOLUMNS"),
        (["--to-var", "nowhere"], "--to-var nowhere has no model_index.json: not a saved pipeline"),
    ],
)
def test_wrong_options_are_named(words, why, sentence, tmp_path):
    assert why in sentence(*words, "--output", tmp_path / "out")


def test_a_run_in_place_of_a_pipeline_is_told_how_to_become_one(sentence, tmp_path):
    (tmp_path / "run" / "generator").mkdir(parents=True)
    said = sentence("--to-var", tmp_path / "run", "--output", tmp_path / "out")
    assert said.endswith(f"scripts/sample.py --run {tmp_path / 'run'} --save-pipeline DIR makes one of a run")


@pytest.mark.parametrize(
    ("hits", "why"),
    [
        ({"quantize.ema_vocab_hit_SV": torch.zeros(4, 15)}, "counts 15 codes, there are 16"),
        ({"quantize.ema_vocab_hit_SV": torch.zeros(16)}, "must have 2 axes"),
        ({"hits": torch.zeros(4, 16)}, "lacks quantize.ema_vocab_hit_SV"),
    ],
)
def test_statistics_of_another_tokenizer_are_refused(
    hits, why, make_generator, make_tokenizer, sentence, tmp_path
):
    folder = tmp_path / "pipeline"
    VARPipeline(make_tokenizer(channels=32, norm_groups=32), make_generator()).save_pretrained(folder)
    save_file(hits, folder / "tokenizer" / "var_statistics.safetensors")
    assert why in sentence("--to-var", folder, "--output", tmp_path / "out")


@pytest.mark.parametrize("kind", ["cut", "emptied", "lacking", "another_encoding"])
def test_a_bad_pipeline_folder_is_one_sentence(kind, make_generator, make_tokenizer, sentence, tmp_path):
    encoding = "sinusoidal" if kind == "another_encoding" else "learned"
    folder = tmp_path / "pipeline"
    VARPipeline(make_tokenizer(channels=32, norm_groups=32), make_generator(encoding)).save_pretrained(folder)
    (weights,) = (folder / "transformer").glob("*.safetensors")
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "emptied":
        weights.unlink()
    elif kind == "lacking":
        state = load_file(weights)
        del state["head.bias"]
        save_file(state, weights, metadata={"format": "pt"})
    said = sentence("--to-var", folder, "--output", tmp_path / "out")
    reasons = {
        "another_encoding": "its encoding is learned",
        "lacking": "not those that its config.json describes: head.bias is missing",
        "cut": f"{weights} is not a safetensors file, or a damaged one",
        "emptied": f"{weights.parent} has no weights",
    }
    assert reasons[kind] in said
    assert leftovers(tmp_path) == ["pipeline"]


# another library's ViT

ARGUMENTS = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
NORMED = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}


@pytest.fixture
def vit(tmp_path):
    """timm's model, and its folder as the hub has it."""
    theirs = loud(
        timm.create_model("vit_tiny_patch16_224", num_classes=5, act_layer="gelu_tanh", **ARGUMENTS)
    )
    arguments = ARGUMENTS | {"act_layer": "gelu_tanh"}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, "pretrained_cfg": NORMED}
    folder = tmp_path / "timm"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return theirs, folder


def check_converted(theirs, folder: Path) -> None:
    """Our classifier sees in [-1, 1] what theirs sees normalised."""
    unit = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(NORMED[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        ours = ViTClassifier.from_pretrained(folder).eval()(2 * unit - 1)
        torch.testing.assert_close(ours, theirs((unit - mean) / std), atol=1e-5, rtol=0)


def test_a_folder_of_timm_becomes_a_classifier(run, vit, tmp_path):
    theirs, folder = vit
    run("--vit", folder, "--output", tmp_path / "ours")
    check_converted(theirs, tmp_path / "ours")

    # The same weights as a pickle, as half of a checkpoint with its command line, and in shards
    half = {"model_ema": theirs.state_dict(), "args": Namespace(lr=1)}
    torch.save({"state_dict": {}} | half, tmp_path / "a.bin")
    more = ["--architecture", folder, "--entry", "model_ema"]
    run("--vit", tmp_path / "a.bin", *more, "--output", tmp_path / "again")
    check_converted(theirs, tmp_path / "again")

    names = sorted(theirs.state_dict())
    in_shards(folder, {name: f"{name.split('.')[0]}.safetensors" for name in names}, theirs.state_dict())
    run("--vit", folder, "--output", tmp_path / "whole")
    check_converted(theirs, tmp_path / "whole")


def in_shards(folder: Path, weight_map: dict[str, str], state: dict[str, torch.Tensor]) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for shard in set(weight_map.values()):
        save_file({name: state[name] for name in weight_map if weight_map[name] == shard}, folder / shard)


def test_a_missing_shard_is_named(sentence, vit, tmp_path):
    theirs, folder = vit
    in_shards(
        folder,
        {name: f"{name.split('.')[0]}.safetensors" for name in theirs.state_dict()},
        theirs.state_dict(),
    )
    (folder / "blocks.safetensors").unlink()
    said = sentence("--vit", folder, "--output", tmp_path / "ours")
    assert said.endswith("lacks blocks.safetensors, which model.safetensors.index.json names")


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a pointer of Git LFS",
        ),
        (b"<!doctype html><html>", "is a web page, not weights"),
        (b"", "is not a safetensors file, or a damaged one"),
    ],
)
def test_what_is_no_file_of_weights_is_named(sentence, vit, tmp_path, written, why):
    (vit[1] / "model.safetensors").write_bytes(written)
    assert why in sentence("--vit", vit[1], "--output", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "--architecture is needed, since weights do not show the activation"),
        (
            ["--architecture", "vit_tiny_patch16_224"],
            "another architecture or another image size",
        ),
        (["--architecture", "resnet18"], "timm cannot build resnet18|is not among the weights"),
        (["--architecture", "."], "timm cannot build ."),
        (
            ["--source", "dinov2", "--architecture", "x"],
            "--architecture names a model of timm, but --source is dinov2",
        ),
        (
            ["--source", "dinov2"],
            "--mean and --std are needed, since weights do not show how images were normalised",
        ),
        (["--source", "dinov2", "--mean", "0.5"], "--mean and --std go together"),
        (["--source", "torchvision"], "its patch_embed.proj.weight is a name of source timm or dinov2"),
        (["--entry", "ema"], "the timm state dict has no entry ema"),
        (["--var", "x"], "--vit converts a ViT: leave out --vqvae, --var and --patch-nums"),
    ],
    ids=str,
)
def test_what_a_vit_needs_beside_its_weights_is_said(sentence, vit, tmp_path, words, why):
    torch.save(vit[0].state_dict(), tmp_path / "vit.pth")
    assert re.search(why, sentence("--vit", tmp_path / "vit.pth", *words, "--output", tmp_path / "ours"))
    assert not (tmp_path / "ours").exists()


def test_options_of_a_vit_need_one(sentence, tmp_path):
    said = sentence("--vqvae", "x", "--var", "y", "--mean", 1, "--output", tmp_path / "out")
    assert "--mean describes a ViT: give --vit" in said

"""What diagnose opens, and the one sentence that it says of a file that is damaged or another model's."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import MEMBERS
from tests.diagnosis.test_measures import said
from var_pe.diagnosis.diagnose import diagnose
from var_pe.diagnosis.opening import Checkpoint, open_subject
from var_pe.diagnosis.saved_files import misfits

WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_a_saved_model_and_a_pipeline_are_opened(tmp_path, pipeline, make_vit):
    make_vit().save_pretrained(tmp_path / "vit")
    pipeline.save_pretrained(tmp_path / "pipeline")
    assert "ViTClassifier" in diagnose(tmp_path / "vit").intro
    found = diagnose(tmp_path / "pipeline", size=(8, 16))
    assert "VARTransformer" in found.intro
    assert "At 8x16 pixels" in found.sections
    with pytest.raises(ValueError, match="neither a run, nor a saved model"):
        open_subject(tmp_path)
    pipeline.transformer.save_pretrained(tmp_path / "generator")
    with pytest.raises(ValueError, match="needs its tokenizer"):
        diagnose(tmp_path / "generator", size=(8, 16))


def test_an_encoder_that_learned_without_labels_is_opened(tmp_path, make_vit):
    make_vit("rope", num_classes=0).save_pretrained(tmp_path / "encoder")
    data = "data: {height: 8, width: 12, shapes_train: 16, shapes_test: 8}"
    sections = ("run: run", "tokenizer_run: tokenizer", "classifier: {}", "encoder: {}", data)
    (tmp_path / "config.yaml").write_text("\n".join(sections))
    assert "ViTClassifier, encoding rope" in diagnose(tmp_path).intro


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table[:, :16], "table_LC is 24x16, config.json has dim 32"),
        (lambda table: torch.cat([table[:1], table]), "has 25 rows, the grids stored beside it 24 cells"),
    ],
)
def test_a_table_that_does_not_fit_is_found_before_loading_fails(tmp_path, make_vit, change, words):
    """The loader can only say that shapes differ."""
    make_vit().save_pretrained(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    state = load_file(file)
    state["position_encoding.table_LC"] = change(state["position_encoding.table_LC"]).contiguous()
    save_file(state, file, {"format": "pt"})
    found = diagnose(tmp_path)
    assert words in said(found.sections["Files"], "problem")


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_checkpoint_of_timm_tells_of_its_prefix_rows(tmp_path, prefix):
    """Our model has none: they were folded into the class token, which the stored table still shows."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    arguments = dict(
        img_size=(32, 48), patch_size=16, embed_dim=32, depth=1, num_heads=2, no_embed_class=not prefix
    )
    model = timm.models.VisionTransformer(**arguments)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    said_of_it = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(said_of_it))
    found = diagnose(tmp_path / "vit.pth", Checkpoint("timm", None, None, tmp_path), size=(48, 48))
    assert f"has {6 + prefix} rows for 6 patches, {prefix} of them" in said(found.sections["Weights"])
    assert ("The position of a prefix token" in said(found.sections["Weights"])) == bool(prefix)
    with pytest.raises(ValueError, match="give --source timm and --architecture, or an"):
        diagnose(tmp_path / "vit.pth")


def test_the_script_says_and_writes(tmp_path, make_vit, monkeypatch, capsys):
    """One line of arguments, findings on the screen, the page beside the model; mistakes are one sentence."""
    make_vit().save_pretrained(tmp_path)
    script = str(Path(__file__).parents[2] / "scripts" / "diagnose.py")
    line = [script, str(tmp_path), "--size", "8", "16", "--task", "detection"]
    monkeypatch.setattr(sys, "argv", line)
    runpy.run_path(script, run_name="__main__")
    assert "ViTClassifier, encoding learned" in capsys.readouterr().out
    assert (tmp_path / "diagnosis.html").exists()
    there = sorted(tmp_path.iterdir())
    for more, sentence in (
        (["--num-heads", "0"], "describe a file of another library"),
        (["--size", "-8", "8"], "--size must be positive multiples of 2 pixels, got -8x8"),
        (["--output", str(tmp_path)], "is a folder; name the page, such as"),
    ):
        monkeypatch.setattr(sys, "argv", [*line, *more])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(script, run_name="__main__")
        assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("line", "name", "change", "words"),
    [
        ("relative_bias", "table_NHyx", lambda t: t[:, :2], "is 2x2x7x11, config.json has num_heads 4"),
        (
            "relative_bias",
            "table_NHyx",
            lambda t: t[0],
            "must have 4 axes (N H y x), its shape is (4, 7, 11)",
        ),
        ("factorized", "rows_hC", lambda t: t[:, :16], "rows_hC is 4x16, config.json has dim 32"),
        ("factorized", "columns_wC", lambda t: t[:, :16], "columns_wC is 6x16, config.json has dim 32"),
        ("learned", "table_LC", lambda t: t[None], "must have 2 axes (L C), its shape is (1, 24, 32)"),
        ("learned", "grids_K2", lambda t: t.flatten(), "must have 2 axes (K 2), its shape is (2,)"),
        ("learned", "grids_K2", lambda t: torch.tensor([[4, 6, 1]]), "is 1x3, axis 2 must be 2"),
    ],
)
def test_every_table_is_held_against_width_and_heads(tmp_path, make_vit, line, name, change, words):
    make_vit(line).save_pretrained(tmp_path)
    planted(tmp_path, f"position_encoding.{name}", change)
    found = said(diagnose(tmp_path).sections["Files"], "problem")
    assert f"{WEIGHTS}: position_encoding.{name}" in found
    assert words in found


def planted(folder: Path, name: str, change) -> None:
    state = load_file(folder / WEIGHTS)
    state[name] = change(state[name]).contiguous()
    save_file(state, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("line", MEMBERS)
def test_what_is_right_is_no_misfit(line, tmp_path, make_vit, make_generator):
    """Axes are read off names, which every member chooses for itself."""
    for number, model in enumerate((make_vit(line), make_generator(line))):
        model.save_pretrained(tmp_path / str(number))
        assert not list(misfits(tmp_path / str(number)))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def settings(**changed):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changed))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: cut(folder / WEIGHTS), "a damaged one"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is not a safetensors file"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"garbage" * 99), "is not a safetensors file"),
        (lambda folder: (folder / WEIGHTS).unlink(), "has no weights"),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "config.json must hold .* got a list",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "config.json is not JSON"),
        (settings(image_size=[16, 16]), "table_LC is 24x32, not 64x32.*such as image_size was changed"),
        (settings(image_size=[6, 16]), "stored for the grids 4x6, this model's are 3x8"),
        (settings(image_size=[7, 16]), "does not describe a ViTClassifier: patch_size must divide the sides"),
        (settings(encoding=5), "does not describe a ViTClassifier: a setting is of the wrong type"),
        (settings(num_heads=3), "does not describe a ViTClassifier: the width must be a multiple"),
        (settings(encoding="rope2"), "does not describe a ViTClassifier: encoding 'rope2'"),
        (lambda folder: planted(folder, "norm.weight", lambda t: t[:3]), "norm.weight is 3, not 32"),
        (lambda folder: planted(folder, "position_encoding.grids_K2", lambda t: -t), "a positive side"),
    ],
)
def test_damage_is_one_sentence_that_names_the_file(tmp_path, make_vit, change, words):
    """Not diffusers' text, whose advice is for programmers, and no trace."""
    make_vit().save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        diagnose(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "ignore_mismatched_sizes" not in str(caught.value)


def test_a_table_of_scores_of_another_size_is_one_sentence_too(tmp_path, make_vit):
    make_vit("relative_bias").save_pretrained(tmp_path)
    planted(tmp_path, "position_encoding.table_NHyx", lambda table: table[:, :, :5])
    with pytest.raises(ValueError, match="table_NHyx is 2x4x5x11, not 2x4x7x11"):
        diagnose(tmp_path)


def test_a_missing_weight_is_named(tmp_path, make_vit):
    """Loaded, it would be noise, or no tensor at all."""
    make_vit().save_pretrained(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    del state["norm.weight"]
    save_file(state, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=r"norm\.weight is missing"):
        diagnose(tmp_path)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([1, 2], "must map names to tensors, got list"),
        ({1: torch.zeros(2)}, "must map names to tensors, got 1: Tensor"),
        ({"model": {"a": [1]}}, "must map names to tensors, got a: list"),
        (
            {"patch_embed.proj.weight": torch.tensor(1.0)},
            "width x channels x side x side, it is a single number",
        ),
        ({"patch_embed.proj.weight": torch.zeros(32, 3, 0, 0)}, "side x side, it is 32x3x0x0"),
        ({"norm.weight": torch.zeros(2)}, "the timm state dict lacks patch_embed.proj.weight"),
    ],
)
def test_a_file_of_something_else_is_one_sentence_too(tmp_path, state, words):
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=rf"vit\.pth.*{words}"):
        diagnose(tmp_path / "vit.pth", Checkpoint("timm", (8, 12), 4, "test_vit"))

"""Saving over another save leaves nothing of it, and what is loaded is what was saved last."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline

from var_pe.models.vit import ViTClassifier
from var_pe.sampling.pipeline import VARPipeline

KINDS = {
    "whole": {},
    "sharded": {"max_shard_size": "5KB"},
    "bin": {"safe_serialization": False},
    "sharded bin": {"safe_serialization": False, "max_shard_size": "5KB"},
}


def changed(pipeline: VARPipeline, by: float = 1.0) -> VARPipeline:
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            parameter.add_(by)
    return pipeline


def same_weights(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_saving_over_another_form_leaves_nothing_of_it(pipeline, tmp_path, first, second):
    """diffusers leaves shards, indices and formats that the new save does not have, and may load these."""
    pipeline.save_pretrained(tmp_path / "a", **KINDS[first])
    changed(pipeline).save_pretrained(tmp_path / "a", **KINDS[second])
    pipeline.save_pretrained(tmp_path / "fresh", **KINDS[second])
    names = [sorted(p.relative_to(f) for p in f.rglob("*")) for f in (tmp_path / "a", tmp_path / "fresh")]
    assert names[0] == names[1]
    again = VARPipeline.from_pretrained(tmp_path / "a")
    assert same_weights(pipeline.transformer, again.transformer)
    assert same_weights(pipeline.tokenizer, again.tokenizer)


def test_a_saved_model_is_no_different(make_vit, tmp_path):
    make_vit(dim=64).save_pretrained(tmp_path, max_shard_size="20KB")
    model = make_vit()
    model.save_pretrained(tmp_path)
    assert same_weights(model, ViTClassifier.from_pretrained(tmp_path))


def test_variants_of_one_model_lie_side_by_side(pipeline, tmp_path):
    """The usual way to publish one: float32 and half in one folder; saving either again keeps the other."""
    pipeline.save_pretrained(tmp_path)
    half = VARPipeline.from_pretrained(tmp_path, torch_dtype=torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    pipeline.save_pretrained(tmp_path)
    again = VARPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert same_weights(half.transformer, again.transformer)


def test_a_variant_of_another_model_is_not_left_beside_new_weights(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path, variant="fp16")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(
        ValueError, match="transformer holds the variant fp16 of another model, which would lie"
    ):
        changed(pipeline).save_pretrained(tmp_path)
    assert before[tmp_path / "transformer" / "diffusion_pytorch_model.fp16.safetensors"]


def test_a_variant_is_named_where_it_is_missing_or_alone(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "fp16", variant="fp16")
    pipeline.save_pretrained(tmp_path / "plain")
    with pytest.raises(
        ValueError, match=r"tokenizer has weights of the variant fp16 alone: .*variant='fp16'"
    ):
        VARPipeline.from_pretrained(tmp_path / "fp16")
    with pytest.raises(ValueError, match="no weights of the variant bf16; its variants: fp16"):
        VARPipeline.from_pretrained(tmp_path / "fp16", variant="bf16")
    with pytest.raises(ValueError, match="no weights of the variant fp16; its variants: none with a name"):
        VARPipeline.from_pretrained(tmp_path / "plain", variant="fp16")
    VARPipeline.from_pretrained(tmp_path / "fp16", variant="fp16")


def test_a_part_without_the_variant_is_loaded_as_it_is(pipeline, tmp_path):
    pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    pipeline.save_pretrained(tmp_path / "whole", variant="fp16")
    (tmp_path / "whole" / "transformer").rename(tmp_path / "transformer")
    (tmp_path / "whole" / "model_index.json").rename(tmp_path / "model_index.json")
    again = VARPipeline.from_pretrained(tmp_path, variant="fp16")
    assert same_weights(pipeline.tokenizer, again.tokenizer)


def test_a_shard_that_is_missing_is_named(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path, max_shard_size="5KB")
    shard = sorted((tmp_path / "transformer").glob("*00002-of-*"))[0]
    shard.unlink()
    with pytest.raises(ValueError, match=rf"transformer lacks {shard.name}, which .*index.json names"):
        VARPipeline.from_pretrained(tmp_path)
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="must say which file holds which weight"):
        VARPipeline.from_pretrained(tmp_path)


def test_a_pointer_of_git_lfs_is_no_weights(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer" / "diffusion_pytorch_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        ValueError, match=r"safetensors is a pointer of Git LFS, not the weights; git lfs pull"
    ):
        VARPipeline.from_pretrained(tmp_path)


def test_a_damaged_pickle_is_one_sentence(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    file = tmp_path / "tokenizer" / "diffusion_pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model.bin was not written by torch.save, or is damaged"):
        VARPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(("safe", "of", "to"), [(True, "safetensors", "bin"), (False, "bin", "safetensors")])
def test_weights_under_the_name_of_another_format_are_refused(safe, of, to, pipeline, tmp_path):
    """diffusers goes by the name, and its words for this are a traceback of pickle."""
    pipeline.save_pretrained(tmp_path, safe_serialization=safe)
    file = tmp_path / "tokenizer" / f"diffusion_pytorch_model.{of}"
    file.rename(file.with_suffix(f".{to}"))
    with pytest.raises(ValueError, match=rf"model.{to} was written by .*: its name must be .*model.{of}"):
        VARPipeline.from_pretrained(tmp_path)


def test_diffusers_own_class_finds_ours(pipeline, tmp_path):
    """With the card and everything else that VARPipeline would have read."""
    pipeline.card = "a card of mine"
    pipeline.save_pretrained(tmp_path / "a")
    found = DiffusionPipeline.from_pretrained(tmp_path / "a")
    assert type(found) is VARPipeline
    assert same_weights(pipeline.transformer, found.transformer)
    found.save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_text() == "a card of mine"
    assert json.loads((tmp_path / "b" / "model_index.json").read_text())["_class_name"] == "VARPipeline"


def test_a_folder_below_home_is_found(pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pipeline.save_pretrained("~/mine")
    assert (tmp_path / "mine" / "model_index.json").exists()
    assert same_weights(pipeline.transformer, VARPipeline.from_pretrained("~/mine").transformer)

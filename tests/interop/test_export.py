"""Programs of torch.export and ONNX give what the models give, or a sentence says why there are none."""

import importlib
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import MEMBERS, QUANTIZERS
from var_pe.interop.export.parts import (
    FirstLevel,
    Part,
    classifier_parts,
    generator_parts,
    tokenizer_parts,
)
from var_pe.interop.export.survey import ANY_SIZE, MODELS, outcome_of
from var_pe.interop.export.writing import TOLERANCE, export_part, run_onnx, session_of
from var_pe.models.hierarchy.classifier import HierarchicalClassifier

KINDS = ["full(blocks=1)", "windowed(blocks=2, window=4)", "local(blocks=1, radius=1)"]
KINDS += ["linear(blocks=1)", "mobile(blocks=1)", "convolution(blocks=1)"]


@torch.no_grad()
@pytest.mark.parametrize("levels_before", [None, 1])
def test_the_steps_one_after_another_are_the_model(levels_before, make_generator, make_tokenizer, make_loud):
    """What one step gives is what the next takes: who has but the files draws from the same model."""
    transformer = make_loud(make_generator("rope + log_cpb", levels_before=levels_before))
    tokenizer = make_loud(make_tokenizer())
    pyramid, labels_B = transformer.pyramid, torch.tensor([0, 2, 3])
    tokens_BL = torch.randint(16, (3, pyramid.num_tokens), generator=torch.Generator().manual_seed(0))
    inputs_BLZ = tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid)
    wanted_BLV = transformer(labels_B, inputs_BLZ)

    f_hat_BZhw = tokenizer.quantizer.start(3, pyramid)
    first, *others = (part.module for part in generator_parts(transformer, tokenizer))
    assert isinstance(first, FirstLevel)
    logits_BlV, cache = first(labels_B)
    torch.testing.assert_close(logits_BlV, wanted_BLV[:, pyramid.spans[0]], atol=1e-4, rtol=1e-4)
    for step, before, span in zip(others, pyramid.spans[:-1], pyramid.spans[1:], strict=True):
        logits_BlV, cache, f_hat_BZhw = step(labels_B, tokens_BL[:, before], f_hat_BZhw, cache)
        torch.testing.assert_close(logits_BlV, wanted_BLV[:, span], atol=1e-4, rtol=1e-4)


def test_files_alone_draw_what_the_model_draws(make_generator, make_tokenizer, make_loud, tmp_path):
    """The likeliest tokens, level by level in onnxruntime."""
    pytest.importorskip("onnxruntime")
    levels = (1, 2)
    transformer = make_loud(make_generator("mixed(learned=0.7, sinusoidal=0.3)", levels=levels, depth=1))
    tokenizer = make_loud(make_tokenizer(levels=levels))
    parts = generator_parts(transformer, tokenizer)
    sessions = {part.name: session_of(export_part(part, tmp_path).onnx) for part in parts}

    labels_B = torch.tensor([1, 0])
    logits_BlV, cache = run_onnx(sessions["level_0"], {"labels": labels_B})
    tokens = [logits_BlV.argmax(-1)]
    given = {"labels": labels_B, "tokens": tokens[0], "f_hat": torch.zeros(2, 4, 2, 2), "cache": cache}
    tokens.append(run_onnx(sessions["level_1"], given)[0].argmax(-1))

    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    drawn = transformer.generate(tokenizer, labels_B, generators=generators, top_k=1)
    assert torch.equal(torch.cat(tokens, 1), drawn.tokens_BL)


def test_a_classifier_leaves_with_all_that_acts_in_attention(make_vit, make_loud, tmp_path):
    """Tokens, turns and scores at once, and prompts; any number of images."""
    pytest.importorskip("onnxruntime")
    line = "sinusoidal + rope(layout=interleaved) + relative_bias"
    vit = make_loud(make_vit(line, depth=1, registers=1, prompts=2))
    (part,) = classifier_parts(vit)
    exported = export_part(part, tmp_path)
    assert exported.difference <= TOLERANCE
    images = torch.rand(5, 3, 8, 12, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        wanted = vit(images)
    (logits,) = run_onnx(session_of(exported.onnx), {"images": images})
    torch.testing.assert_close(logits, wanted, atol=TOLERANCE, rtol=0)


def test_a_run_of_an_encoder_is_exported_as_its_features(make_vit, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    make_vit("rope", num_classes=0).save_pretrained(tmp_path / "encoder")
    given = Namespace(run=tmp_path, pipeline=None, classifier=None, size=None, any_size=False)
    (part,) = importlib.import_module("export").parts_of(given)
    assert part.run(part.examples(2))[0].shape == (2, 32)


def test_a_size_alone_moves_tables_as_other_commands_do(make_vit, tmp_path, monkeypatch, capsys):
    """`scripts/evaluate.py --size` and `scripts/explain.py --size` take timm's convention by themselves."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    vit = make_vit("learned")
    vit.save_pretrained(tmp_path / "classifier")
    given = Namespace(
        run=tmp_path, pipeline=None, classifier=None, size=[16, 24], resample=None, any_size=False
    )
    (part,) = importlib.import_module("export").parts_of(given)
    assert "moved to 16x24 pixels; learned tables, if there are any, by timm" in capsys.readouterr().out

    vit.set_input_size((16, 24), resample="timm")
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(part.run({"images": images})[0], vit.eval()(images))


class Asks(nn.Module):
    """Does what depends on the numbers themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


def test_what_no_program_can_do_is_said_in_a_sentence(tmp_path):
    part = Part("asks", Asks(), lambda batch: {"x": torch.ones(batch, 2)}, {"x": 0}, ("y",))
    with pytest.raises(ValueError, match=r"asks: torch\.export cannot follow the model: ") as caught:
        export_part(part, tmp_path)
    assert "\n" not in str(caught.value)


class Several(nn.Module):
    """Its program, unlike itself, takes for granted that there is not one row."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            torch._check(x.shape[0] % 3 != 1)
        return x + 1


def test_a_program_that_refuses_some_images_is_said_in_a_sentence(tmp_path):
    pytest.importorskip("onnxruntime")
    part = Part("several", Several(), lambda batch: {"x": torch.ones(batch, 2)}, {"x": 0}, ("y",))
    with pytest.raises(ValueError, match="several: a program refuses 1 images: ") as caught:
        export_part(part, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", [*QUANTIZERS, "vq(rate=0.1, given=coarser)"])
def test_tokenizers_leave_with_every_quantizer(quantizer, make_tokenizer, make_loud, tmp_path):
    """Both ways, with attention at the lowest resolution and colours that pass around the autoencoder."""
    pytest.importorskip("onnxruntime")
    tokenizer = make_loud(make_tokenizer(quantizer=quantizer, attention=True, shortcut=True))
    for part in tokenizer_parts(tokenizer):
        exported = export_part(part, tmp_path)
        assert exported.difference <= TOLERANCE
        assert not exported.other


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_stage_leaves(kind, make_loud, tmp_path):
    """Windows that are shifted over a map that they do not fill, borders, kernels' features, convolutions."""
    pytest.importorskip("onnxruntime")
    model = HierarchicalClassifier(
        (12, 20), num_classes=3, hierarchy=[kind], encoding="rope + peg", patch_size=2, dim=16, num_heads=2
    )
    (part,) = classifier_parts(make_loud(model).eval())
    assert export_part(part, tmp_path).difference <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(set(MODELS) - {ANY_SIZE}))
@pytest.mark.parametrize("member", MEMBERS)
def test_every_encoding_leaves_in_every_model(member, model):
    pytest.importorskip("onnxruntime")
    outcome = outcome_of(model, member)
    assert outcome.difference is not None, outcome.refused
    assert outcome.difference <= TOLERANCE

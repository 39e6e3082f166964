"""A model that was saved before lines were saved settled is the model that it was."""

import json

import pytest
import torch

from var_pe.models.generator import VARTransformer
from var_pe.models.vit import ViTClassifier

# the line of an old config.json, and what it stood for
MIXTURES = ["mixed(learned=0.7, sinusoidal=0.3)", "mixed(learned=0.7, sinusoidal=0.3, match_rms=false)"]
OLD = [
    ("sinusoidal", "sinusoidal(scale=1)"),
    ("sinusoidal(order=mae) + peg", "sinusoidal(order=mae, scale=1) + peg"),
    *[(line, line) for line in MIXTURES],
]


def code_LC(model) -> torch.Tensor:
    positions = model.pyramid.positions()
    encoding = model.position_encoding
    x_BLC = torch.zeros(1, positions.num_tokens, model.config["dim"])
    return encoding.embed(x_BLC, encoding.prepare(positions))[0].detach()


@pytest.mark.parametrize(("line", "meaning"), OLD)
@pytest.mark.parametrize("kind", ["generator", "vit"])
def test_an_old_line_keeps_its_amplitude(tmp_path, make_generator, make_vit, kind, line, meaning):
    """It would draw other images, and no number would say so."""
    trained = make_generator(meaning) if kind == "generator" else make_vit(meaning)
    trained.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "encoding": line}))

    cls = VARTransformer if kind == "generator" else ViTClassifier
    loaded = cls.from_pretrained(tmp_path)
    assert torch.equal(code_LC(loaded), code_LC(trained))
    assert loaded.config["encoding"] == meaning

    # Saved again, it says so.
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["encoding"] == meaning


def test_a_mixture_adds_the_codes_that_articles_print(make_generator):
    """Alone a code starts as large as a table; a mixture sees to amplitudes itself."""
    alone, mixture = make_generator("sinusoidal(scale=1)"), make_generator(MIXTURES[1])
    table_LC = mixture.position_encoding.parts[0].table_LC.detach()
    torch.testing.assert_close(code_LC(mixture), 0.7 * table_LC + 0.3 * code_LC(alone))


def test_a_new_model_saves_the_scale_that_it_has(tmp_path, make_generator):
    model = make_generator("sinusoidal")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["encoding"] == "sinusoidal(scale=0.144)"
    assert torch.equal(code_LC(VARTransformer.from_pretrained(tmp_path)), code_LC(model))
    assert torch.equal(code_LC(VARTransformer.from_config(model.config)), code_LC(model))

"""Every registered encoding is diagnosed, in both models and on grids of any sides."""

import pytest

from tests.conftest import MEMBERS
from var_pe.diagnosis import model_findings, size_findings
from var_pe.diagnosis.diagnose import diagnose_subject
from var_pe.diagnosis.measures import PlacedEncoding, bias, code, turned, wavelengths
from var_pe.diagnosis.moving import moved
from var_pe.diagnosis.subject import Subject, tokens_before_positions
from var_pe.pyramid import Pyramid


@pytest.mark.parametrize("line", MEMBERS)
def test_every_encoding_is_diagnosed_in_both_models(line, make_vit, make_generator):
    """Hooks are asked, not names: a member of tomorrow is diagnosed as well."""
    for model in (make_vit(line), make_generator(line, levels=(1, 2, 4))):
        subject = Subject("model", model)
        tokens_BLC, what = tokens_before_positions(subject)
        assert "noise" in what
        assert tokens_BLC.shape[1:] == (model.pyramid.num_tokens, 32)
        assert "embed" not in vars(model.position_encoding)
        one = PlacedEncoding(model.position_encoding, model.pyramid, 32, 4)
        there = moved(one, Pyramid(tuple((2 * h, w) for h, w in model.pyramid.grids)), "timm")
        for each in (one, there):
            found = [code(each), turned(each), bias(each), wavelengths(each)]
            by_content = any(one.encoding.uses(hook) for hook in ("remap", "products", "refine"))
            assert any(value is not None for value in found) or by_content or line == "none"
            for value in found[:2]:
                assert value is None or value.isfinite().all()
        for findings in (
            model_findings.norms(one, tokens_BLC, what),
            model_findings.neighbourhood(one),
            model_findings.rotary(one),
            model_findings.mixture(one),
            size_findings.at_size(one, there, "timm"),
        ):
            list(findings)


@pytest.mark.parametrize("line", [*MEMBERS, "sinusoidal + rope"])
@pytest.mark.parametrize(("home", "there"), [((2, 16), (16, 2)), ((2, 2), (32, 4)), ((8, 8), (2, 2))])
def test_grids_with_a_side_of_one_are_diagnosed(line, home, there, make_vit):
    """A strip of sound or a single patch is no reason to fail, at home or elsewhere."""
    found = diagnose_subject(Subject("vit", make_vit(line, image_size=home)), there, "timm", None, [])
    assert f"At {there[0]}x{there[1]} pixels" in found.sections

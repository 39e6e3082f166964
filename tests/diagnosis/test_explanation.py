"""The page of what models look at: all that it shows is in it, several models side by side."""

import re

import pytest
import torch

from var_pe.diagnosis.classifier_explanation import Examined, explain_classifiers
from var_pe.diagnosis.explanation import write_explanation
from var_pe.diagnosis.generator_explanation import Drawer, explain_generators
from var_pe.models.hierarchy.classifier import HierarchicalClassifier


def pictures_of(page):
    """The headings of a page's pictures, which are all in the page itself."""
    text = page.read_text()
    assert not re.findall(r'src="(?!data:image/png;base64,)', text)
    return re.findall(r'<img alt="([^"]*)"', text)


def test_generators_stand_side_by_side(make_generator, make_tokenizer, tmp_path):
    """Of two encodings: one picture for both where they are compared, one for each where heads are shown."""
    tokens_BL = torch.zeros(2, 30, dtype=torch.long)
    drawers = []
    for name, encoding in (("first", "learned"), ("second", "rope")):
        drawers.append(
            Drawer(name, make_generator(encoding), make_tokenizer(), tokens_BL, torch.tensor([0, 3]))
        )
    explained = explain_generators(drawers)
    write_explanation(explained, tmp_path / "page.html", "a <command>")
    assert len(pictures_of(tmp_path / "page.html")) == 4 + 2
    assert [line.split(":")[0] for line in explained.lines] == ["first", "second"]
    assert "a &lt;command&gt;" in (tmp_path / "page.html").read_text()


def test_classifiers_of_both_kinds_stand_side_by_side(make_vit, tmp_path):
    """Stages have no rollout, and the line says so; grey pictures and classes without names are shown."""
    pytest.importorskip("pytorch_grad_cam")
    stages = HierarchicalClassifier(
        (8, 12),
        image_channels=1,
        num_classes=3,
        patch_size=2,
        dim=16,
        num_heads=2,
        hierarchy=["windowed(blocks=1, window=2)"],
    )
    models = {"plain": make_vit("learned", image_channels=1), "in stages": stages.eval()}
    images = torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    explained = explain_classifiers([Examined(*named, images, ()) for named in models.items()])
    write_explanation(explained, tmp_path / "page.html", "command")
    names = pictures_of(tmp_path / "page.html")
    assert [name.split(":")[0] for name in names] == ["plain", "in stages", "How far attention goes", "plain"]
    assert "no rollout" in explained.lines[1]

"""The page of what models look at: all that it shows is in it, several models side by side."""

import re

import pytest
import torch

from var_pe.diagnosis.classifier_explanation import Examined, answers_figure, explain_classifiers
from var_pe.diagnosis.explanation import by_layer, write_explanation
from var_pe.diagnosis.generator_explanation import Drawer, explain_generators
from var_pe.diagnosis.moved_attention import likeness, with_moved
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


def test_a_picture_of_another_class_than_predicted_says_so(make_vit):
    """Whoever looks at a mistake wants to know which one it is."""
    images = torch.zeros(3, 1, 8, 12)
    vit = make_vit("learned", image_channels=1).eval()
    taken = int(vit(images).argmax(1)[0])
    names = ["ant", "bee", "cow", "dog"][: vit.num_classes]
    other = (taken + 1) % len(names)
    figure = answers_figure(Examined("plain", vit, images, names, [taken, other, -1]), {})
    assert [axis.get_title() for axis in figure.axes] == [
        names[taken],
        f"{names[taken]}\ntruly {names[other]}",
        names[taken],
    ]


def test_lines_of_a_chart_are_not_cut_off_and_stand_beside_even_ones():
    figure = by_layer({"plain": torch.full((2, 3), 0.4)}, "sides", {"plain": 0.5})
    (axis,) = figure.axes
    heights = [float(max(line.get_ydata())) for line in axis.lines]
    assert max(heights) == 0.5
    assert axis.get_ylim()[1] > 0.5
    assert axis.get_legend().get_texts()[1].get_text() == "plain, if it were even"


def test_a_classifier_stands_beside_itself_at_another_size(make_vit, make_loud, tmp_path):
    """Two more pictures, and a line that finds the same maps where nothing changed, others elsewhere."""
    pytest.importorskip("pytorch_grad_cam")
    vit, larger = (make_loud(make_vit("rope")) for _ in range(2))
    larger.set_input_size((16, 24))
    images = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    enlarged = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    own, same = Examined("plain", vit, images, ()), Examined("plain", vit, images, ())
    other = Examined("plain", larger, enlarged, ())

    plain = explain_classifiers([own])
    both = with_moved(plain, [(own, other)])
    write_explanation(both, tmp_path / "page.html", "command")
    assert len(pictures_of(tmp_path / "page.html")) == len(plain.pictures) + 2
    assert both.lines[1].startswith("plain at 8x12 and 16x24: correlation of rollouts ")
    (unmoved,) = with_moved(plain, [(own, same)]).lines[1:]
    assert "correlation of rollouts 1.00, with another picture's " in unmoved
    assert "with another picture's 1.00" not in unmoved
    assert unmoved.endswith("; 3 of 3 pictures are taken for the same class.")


def test_maps_of_two_sizes_are_compared_place_by_place():
    """A map made finer is the same map, and its mirror image is another one."""
    map_1hw = torch.tensor([[[1.0, 2.0, 4.0], [0.0, 3.0, 1.0]]])
    finer = map_1hw.repeat_interleave(2, 1).repeat_interleave(2, 2)
    detail = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    finer[:, ::2, ::2] += detail  # what the mean over a cell does not know
    finer[:, 1::2, 1::2] -= detail
    torch.testing.assert_close(likeness(map_1hw, finer * 5 + 7), torch.ones(1))
    assert likeness(map_1hw, finer.flip(2)).item() < 0.5


def test_stages_have_no_map_to_compare(tmp_path):
    stages = HierarchicalClassifier(
        (8, 12), patch_size=2, dim=16, num_heads=2, num_classes=3, hierarchy=["full(blocks=1)"]
    )
    own = Examined("stages", stages.eval(), torch.zeros(1, 3, 8, 12), ())
    with pytest.raises(ValueError, match=r"stages: attention is compared .* in plain ViTs, not in stages"):
        with_moved(explain_classifiers([]), [(own, own)])

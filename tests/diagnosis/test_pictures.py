"""Diagnose's pictures show what they say they show, and travel inside the page."""

import pytest
import torch

from tests.diagnosis.test_measures import placed
from var_pe.diagnosis.diagnose import diagnose_subject
from var_pe.diagnosis.measures import bias, centre, code, cosine
from var_pe.diagnosis.pictures import bias_figure, norm_histograms, similarities, wavelength_figure
from var_pe.diagnosis.report import as_text, write_page
from var_pe.diagnosis.subject import Subject
from var_pe.pyramid import Pyramid


def test_the_page_needs_nothing_beside_it(tmp_path, make_vit):
    """It is sent to people: pictures are in it, and nothing is fetched."""
    vit = make_vit("mixed(learned=0.7, sinusoidal=0.3) + rope + log_cpb")
    found = diagnose_subject(Subject("vit <b>", vit), (16, 12), "timm", "segmentation", [])
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == len(found.pictures) == 5
    assert "http" not in page
    assert "vit &lt;b&gt;" in page
    assert all(finding.said in as_text(found) for part in found.sections.values() for finding in part)


def shown(axis) -> torch.Tensor:
    (image,) = axis.images
    return torch.from_numpy(image.get_array().data)


def test_the_similarity_picture_is_of_the_centre():
    """From a corner, half of the picture would be missing."""
    pyramid = Pyramid(((2, 2), (4, 6)))
    similarity_LL = cosine(code(placed("learned", pyramid)))
    coarse, fine, whole = similarities([("trained", similarity_LL, pyramid)]).axes[:3]
    torch.testing.assert_close(shown(fine), similarity_LL[4 + 2 * 6 + 3, 4:].reshape(4, 6))
    torch.testing.assert_close(shown(coarse), similarity_LL[3, :4].reshape(2, 2))
    torch.testing.assert_close(shown(whole), similarity_LL)
    assert shown(fine).argmax() == centre((4, 6)) == 15


def test_the_bias_picture_is_of_attention():
    """Scores of -30 and -60 look different and are seen alike: not at all."""
    one = placed("alibi")
    figure = bias_figure(one)
    for head, axis in enumerate(figure.axes):
        expected_L = bias(one)[head, centre((6, 6))].softmax(dim=0)
        torch.testing.assert_close(shown(axis).flatten(), expected_L)
        assert float(shown(axis).sum()) == pytest.approx(1)
        assert f"{expected_L.min():.1%} to {expected_L.max():.1%}" in axis.get_title()


@pytest.mark.parametrize("size", [0.0, 0.587654, 9.8])
def test_norms_that_are_all_alike_are_a_line(size):
    """Those of a fixed code differ by rounding, which no histogram has bins for."""
    one = placed("learned")
    with torch.no_grad():
        one.encoding.table_LC.copy_(size * torch.nn.functional.normalize(one.encoding.table_LC, dim=1))
        one.encoding.table_LC[3:9] *= 1 + 2e-7
    (axis,) = norm_histograms(one, torch.randn(2, 36, 32)).axes
    (line,) = axis.lines
    assert line.get_xdata()[0] == pytest.approx(size, abs=1e-5)
    assert len(axis.patches) == 30  # the tokens' bars


def test_wavelengths_are_drawn_for_sides_that_have_neighbours():
    assert len(wavelength_figure(placed("rope")).axes) == 2
    assert len(wavelength_figure(placed("rope", Pyramid(((1, 6),)))).axes) == 1
    assert wavelength_figure(placed("rope", Pyramid(((1, 1),)))) is None

"""How much of a table the sinusoid explains: all of what it spans, nothing of the rest."""

import pytest
import torch

from var_pe.encodings import build_encoding
from var_pe.encodings.machinery.share import share_in_sinusoid, share_in_span, span_dimensions
from var_pe.pyramid import Pyramid
from var_pe.seeding import generator_for

LADDER = Pyramid.square(1, 2, 3, 4)


def test_any_linear_map_of_a_code_lies_in_its_span():
    """A model that only turns and weighs the fixed code has learned no position of its own."""
    code_LC = torch.randn(30, 6, generator=generator_for(0, "code"))
    mixed_LC = code_LC @ torch.randn(6, 9, generator=generator_for(1, "map")) + 5
    assert share_in_span(mixed_LC, code_LC) == pytest.approx(1.0, abs=1e-6)

    random_LC = torch.randn(30, 4000, generator=generator_for(2, "table"))
    assert share_in_span(random_LC, code_LC) == pytest.approx(6 / 29, abs=0.01)


def test_encodings_are_read_as_they_add_to_tokens():
    """Random tables start at the share of chance, sinusoidal ones at 1, and what adds no code has none."""

    def share(line: str) -> float | None:
        encoding = build_encoding(line, dim=256, num_heads=4, depth=1, pyramid=LADDER)
        for name, parameter in encoding.named_parameters():
            encoding.init_parameter(name, parameter, generator_for(0, name))
        return share_in_sinusoid(encoding, LADDER, 256)

    chance = span_dimensions(LADDER, 256) / (LADDER.num_tokens - 1)
    assert share("learned") == pytest.approx(chance, abs=0.05)
    assert share("learned(init=sinusoidal)") == pytest.approx(1.0, abs=1e-3)
    assert chance < 0.9
    assert share("rope") is None
    assert share("sinusoidal") is None

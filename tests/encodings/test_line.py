"""The one-line language: says what it means, never runs anything, and refuses in one sentence."""

import re
from pathlib import Path

import pytest
import torch

from var_pe.encodings import (
    REGISTRY,
    ModelShape,
    PositionEncoding,
    as_saved,
    build_encoding,
    register,
    settled,
)
from var_pe.pyramid import Pyramid
from var_pe.settings.line import Member, parse

MIXTURES = [
    "mixed(learned=0.7, sinusoidal=0.3)",
    "mixed(learned=0.7, sinusoidal=0.3, match_rms=false)",
    "mixed(learned, sinusoidal(temperature=50), weights=(0.7, 0.3)) + rope",
]
MODEL = dict(dim=16, num_heads=2, depth=1, pyramid=Pyramid.square(1, 2))


def test_a_line_becomes_members():
    assert parse("learned") == (Member("learned"),)
    assert parse(" mixed(learned=0.7, sinusoidal=.3)") == (
        Member("mixed", options={"learned": 0.7, "sinusoidal": 0.3}),
    )
    assert parse("a + (b + c(x=-1, y=true, z=word, n=none, s='w'))") == (
        Member("a"),
        Member("b"),
        Member("c", options={"x": -1, "y": True, "z": "word", "n": None, "s": "w"}),
    )
    parts = (Member("a", options={"init": "xavier"}), Member("b"))
    assert parse("mixed(a(init=xavier), b, weights=(0.7, -3))") == (
        Member("mixed", parts, {"weights": (0.7, -3)}),
    )


NASTY = [
    "",
    "   ",
    "learned +",
    "learned sinusoidal",
    "learned - sinusoidal",
    "learned, sinusoidal",
    "learned; import os",
    "__import__('os').system('touch pwned')",
    "open('pwned', 'w')",
    "learned(scale=open('pwned', 'w'))",
    "learned(scale=().__class__.__bases__)",
    "learned(scale=2 ** 9 ** 9)",
    "learned(scale=[x for x in 'ab'])",
    "learned(scale=f'{1}')",
    "learned(scale=b'1')",
    "learned(scale=1j)",
    "learned(scale=...)",
    "learned(scale=not true)",
    "learned(scale=1e999)",
    "learned(scale=1" + "0" * 400 + ")",
    "learned(scale=1" + "0" * 5000 + ")",
    "learned(scale=1, scale=2)",
    "learned(*scale)",
    "learned(**scale)",
    "learned(scale:=1)",
    "learned(0.7)",
    "learned(sinusoidal)",
    "lambda: learned",
    "learned[0]",
    "learned.scale",
    "learned()()",
    "learned\n+ sinusoidal",
    "learned\0",
    "learned\ud800",
    "'learned'",
    "3",
    "true",
    "(" * 5000,
    "learned(" * 80 + ")" * 80,
    "learned + " * 1500 + "learned",
    "learned + " * 20_000 + "learned",
    "learned(scale=" + "-" * 100_000 + "1)",
    "learned" + ".a" * 5000,
]


@pytest.mark.parametrize(
    "line", NASTY, ids=lambda line: line[:30].encode("unicode_escape").decode() or "empty"
)
def test_nasty_lines_are_one_sentence_and_run_nothing(line, tmp_path, monkeypatch):
    """The line comes from config files that people pass around."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="encoding") as refused:
        build_encoding(line, **MODEL)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("lerned", "there is no encoding 'lerned'; did you mean learned"),
        ("qqq", "there is no encoding 'qqq'; there are .*learned.*sinusoidal"),
        ("learned(scales=2)", "unknown key scales of learned; did you mean scale"),
        ("learned(dim=2)", "unknown key dim of learned"),
        ("none(scale=1)", "unknown key scale of none; there are none"),
        ("learned(init=5)", "init of learned must be str, got 5"),
        ("learned(init=normal)", "init is one of trunc_normal, xavier, sinusoidal, got 'normal'"),
        ("learned(scale=wide)", "scale of learned must be float, got wide"),
        ("learned(scale=true)", "scale of learned must be float, got true"),
        ("learned(scale=0)", "scale must be above 0 and finite, got 0"),
        ("sinusoidal(temperature=1)", "temperature must be above 1 and finite, got 1"),
        ("mixed(learned=1, sinusoidal=1, trainable=1)", "trainable of mixed must be bool, got 1"),
        ("mixed", "two or more parts and a weight for each"),
        ("mixed(learned=0.7)", "two or more parts and a weight for each"),
        ("mixed(learned=0.7, sinusodal=0.3)", "unknown key sinusodal of mixed; did you mean sinusoidal"),
        ("mixed(learned=0, sinusoidal=0)", "finite and not all zero"),
        ("mixed(learned=much, sinusoidal=1)", "weights of mixed must be list of float, got .much, 1."),
        ("mixed(learned, sinusoidal, weights=0.5)", "weights of mixed must be list of float, got 0.5"),
        ("mixed(learned, sinusoidal, weights=(1, 2, 3))", "a weight for each"),
        ("mixed(learned, sinusoidal=1)", "gives weights twice"),
        ("mixed(learned=1, sinusoidal=1, weights=(1, 1))", "gives weights twice"),
        ("mixed(learned=1, none=1)", "mixed takes encodings that are added to tokens"),
    ],
)
def test_a_wrong_line_is_met_with_what_is_wrong(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_encoding(line, **MODEL)


@pytest.mark.parametrize("line", ["sinusoidal", "learned(init=sinusoidal)"])
def test_a_width_that_does_not_fit_is_named(line):
    with pytest.raises(ValueError, match="needs a width that is a multiple of 4, got 18"):
        build_encoding(line, **(MODEL | {"dim": 18}))


def test_a_new_encoding_is_one_registered_class():
    """`@register` is all it takes to be selectable; a name that is taken is refused."""
    try:

        @register("mine")
        class Mine(PositionEncoding):
            def __init__(self, shape: ModelShape, *, strength: float = 1.0):
                super().__init__()
                self.strength = strength

        assert build_encoding("mine(strength=3)", **MODEL).strength == 3
        with pytest.raises(ValueError, match="two encodings are called mine"):
            register("mine")(Mine)
    finally:
        REGISTRY.pop("mine", None)


def old_constructor(self, *, dim, num_heads, depth, pyramid, strength=1.0):
    """What encodings were built with before."""


def no_shape(self, strength=1.0):
    """Knows nothing of the model."""


@pytest.mark.parametrize(
    "constructor", [old_constructor, no_shape, None], ids=["old", "without", "inherited"]
)
def test_an_encoding_that_is_not_built_from_a_shape_is_met_with_what_to_write(constructor):
    """Files of other people with the old keywords: one sentence, when their file is imported."""
    names = {} if constructor is None else {"__init__": constructor}
    theirs = type("Theirs", (PositionEncoding,), names)
    with pytest.raises(ValueError, match="encoding theirs: Theirs must be built from a shape") as refused:
        register("theirs")(theirs)
    sentence = str(refused.value)
    assert "write `def __init__(self, shape: ModelShape, *, option=default, ...)`" in sentence
    assert "shape.pyramid for the keywords dim, num_heads, depth and pyramid" in sentence
    assert "\n" not in sentence
    assert "theirs" not in REGISTRY


def test_an_option_of_a_part_is_looked_at_as_its_own():
    """The sentence names the part, and the line once."""
    with pytest.raises(ValueError, match=r"^encoding '.*': unknown key size of learned; there") as refused:
        build_encoding("mixed(learned(size=2), sinusoidal)", **MODEL)
    assert str(refused.value).count("encoding '") == 1


def test_the_example_of_the_readme_works():
    """The first thing that somebody with an idea of their own copies."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (example,) = [block for block in blocks if "@register" in block]
    name = re.search(r'@register\("(\w+)"\)', example)[1]
    try:
        exec(example, {})
        encoding = build_encoding(f"{name}(scale=2) + peg", **MODEL)
        positions = MODEL["pyramid"].positions()
        x_BLC = torch.zeros(1, MODEL["pyramid"].num_tokens, MODEL["dim"])
        codes_LC = encoding.embed(x_BLC, encoding.prepare(positions))[0]
    finally:
        REGISTRY.pop(name, None)
    assert torch.equal(codes_LC, 2 * positions.yx_L2[:, :1].expand_as(codes_LC))


@pytest.mark.parametrize(
    ("line", "new", "old"),
    [
        ("learned", "learned", "learned"),
        ("sinusoidal", "sinusoidal(scale=0.0589)", "sinusoidal(scale=1)"),
        ("sinusoidal(scale=2)", "sinusoidal(scale=2)", "sinusoidal(scale=2)"),
        (
            "sinusoidal( order=mae ) + rope",
            "sinusoidal(order=mae, scale=0.0589) + rope",
            "sinusoidal(order=mae, scale=1) + rope",
        ),
        *[(line, line, line) for line in MIXTURES],
    ],
)
def test_a_line_says_what_follows_from_the_width(line, new, old):
    """A line that a model was saved with must go on meaning what it meant, whatever a new one starts from."""
    assert settled(line, dim=192) == new
    assert as_saved(line) == old
    for once in (new, old):
        assert settled(once, dim=64) == as_saved(once) == once


@pytest.mark.parametrize("line", ["sinusoidal", "sinusoidal(temperature=50) + peg"])
def test_a_line_and_its_settled_form_are_one_encoding(line):
    """The saved model is the one that was trained."""
    model = {**MODEL, "dim": 64}
    positions = model["pyramid"].positions()
    said, settled_too = (build_encoding(text, **model) for text in (line, settled(line, dim=64)))
    x_BLC = torch.zeros(1, positions.num_tokens, 64)
    given, written = (one.embed(x_BLC, one.prepare(positions)) for one in (said, settled_too))
    assert torch.equal(given, written)

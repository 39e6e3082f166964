"""Compiled models and recomputed activations: the numbers of the plain pass, and few graphs."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from tests.conftest import MEMBERS
from var_pe.models import kernels
from var_pe.models.kernels import Served, served_by
from var_pe.pyramid import Pyramid

LABELS_B = torch.tensor([0, 3])
# aot_eager traces forward and backward as inductor does, and takes no seconds of a C++ compiler.
HOW = {"backend": "aot_eager", "dynamic": False}
FAST = ["rope_mixed + relative_bias(spatial_scale=true)"]


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def in_slices(monkeypatch):
    """The calls that long pyramids get: some levels each on their own."""
    for key in kernels.TABLE:
        monkeypatch.setitem(kernels.TABLE, key, Served(plain=0, fused=0))


def inputs(length: int = 29) -> torch.Tensor:
    return torch.randn(2, length, 4, generator=torch.Generator().manual_seed(0))


def trained_on(model, *given, **more):
    """Logits and all gradients of one pass; dropout and stochastic depth by the same seed every time."""
    torch.manual_seed(3)
    model.zero_grad()
    logits = model(*given, **more)
    logits.square().mean().backward()
    return [logits.detach(), *(parameter.grad for parameter in model.parameters())]


def check_equal(model, plain, *given, exactly: bool = False, **more):
    """Within rounding: gradients of up to 1 are compared, sums over some thousand products."""
    for mine, theirs in zip(
        trained_on(model, *given, **more), trained_on(plain, *given, **more), strict=True
    ):
        assert torch.equal(mine, theirs) if exactly else torch.allclose(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=[] if line in FAST else pytest.mark.slow) for line in [*MEMBERS, *FAST]]
)
def test_blocks_of_any_encoding_are_one_graph_with_the_plain_numbers(line, make_generator, make_loud):
    """The layer's number, or a probability that grows with it, would compile every block anew."""
    options = {"depth": 6, "drop_path": 0.2}
    plain = make_loud(make_generator(line, **options)).train()
    model = copy.deepcopy(plain)
    model.compile_repeated_blocks(**HOW)
    check_equal(model, plain, LABELS_B, inputs())
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("line", ["rope_mixed", *FAST, "log_cpb + alibi", "rope + pape"])
def test_slices_are_compiled_once_too(line, make_generator, make_loud, in_slices):
    plain = make_loud(make_generator(line, depth=6)).train()
    model = copy.deepcopy(plain)
    model.compile_repeated_blocks(**HOW)
    check_equal(model, plain, LABELS_B, inputs())
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(
    ("line", "dropout"),
    [("learned", 0.0), pytest.param("relative_bias", 0.0, marks=pytest.mark.slow), ("rope", 0.1)],
)
def test_products_are_compiled_once_too(line, dropout, make_generator, make_loud):
    """With the partitioner that decides for inductor what a backward pass computes anew."""
    plain = make_loud(make_generator(line, depth=3, dropout=dropout)).train()
    model = copy.deepcopy(plain)
    model.compile_repeated_blocks(backend="aot_eager_decomp_partition", dynamic=False)
    with served_by("products"):
        if dropout:  # drawn in another order
            trained_on(model, LABELS_B, inputs())
        else:
            check_equal(model, plain, LABELS_B, inputs())
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("how", ["blocks", pytest.param("whole", marks=pytest.mark.slow)])
def test_several_pyramids_are_several_graphs_and_no_more(how, make_generator, make_loud):
    """A graph of sizes that vary would be slower than one for each pyramid."""
    plain = make_loud(make_generator("rope", level_embedding="sinusoidal")).train()
    model = copy.deepcopy(plain)
    model.compile_repeated_blocks(**HOW) if how == "blocks" else model.compile(**HOW)
    pyramids = [Pyramid.square(1, 2, 3, 4), Pyramid.square(1, 2, 4), Pyramid.of([(1, 1), (2, 3)])]
    for graphs in (3, 3):
        for pyramid in pyramids:
            length = pyramid.num_tokens - 1
            check_equal(model, plain, LABELS_B, inputs(length), pyramid=pyramid)
        assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("line", MEMBERS)
def test_the_whole_of_any_generator_is_one_graph(line, make_generator, make_loud):
    plain = make_loud(make_generator(line)).train()
    model = copy.deepcopy(plain)
    model.compile(**HOW)
    check_equal(model, plain, LABELS_B, inputs())
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("line", ["learned + peg", "rope_mixed + relative_bias", "log_cpb(shared=true)"])
def test_recomputed_activations_change_no_bit(line, sliced, make_generator, make_loud, request):
    """The second forward pass draws the same dropout masks and the same skipped branches."""
    if sliced:
        request.getfixturevalue("in_slices")
    options = {"depth": 3, "dropout": 0.2, "drop_path": 0.3}
    plain = make_loud(make_generator(line, **options)).train()
    model = copy.deepcopy(plain)
    model.enable_gradient_checkpointing()
    check_equal(model, plain, LABELS_B, inputs(), exactly=True)


def test_a_classifiers_blocks_are_recomputed_and_compiled(make_vit, make_loud):
    plain = make_loud(
        make_vit("rope_mixed", registers=2, dropout=0.2, drop_path=0.3, layer_scale=0.1)
    ).train()
    images = torch.randn(2, 3, 8, 12)
    model = copy.deepcopy(plain)
    model.enable_gradient_checkpointing()
    check_equal(model, plain, images, exactly=True)
    model.compile_repeated_blocks(**HOW)
    check_equal(model, plain, images)
    assert counters["stats"]["unique_graphs"] == 1


def test_names_of_weights_and_copies_know_nothing_of_compilation(make_generator):
    model, how = make_generator(), HOW | {"backend": "eager"}
    names = list(model.state_dict())
    model.compile(**how)
    model.compile_repeated_blocks(**how)
    assert list(model.state_dict()) == names
    model(LABELS_B, inputs())
    graphs = counters["stats"]["unique_graphs"]
    copy.deepcopy(model)(LABELS_B[:1], inputs()[:1])  # of another size, so that a compiled copy would show
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize("how", ["blocks", pytest.param("whole", marks=pytest.mark.slow)])
def test_a_tokenizer_compiles_without_graph_breaks(how, make_tokenizer):
    """Encoder and decoder are a graph each; with the quantizer all is one for each pyramid."""
    plain = make_tokenizer(attention=True).train()
    images = torch.randn(2, 3, 8, 8)
    model = copy.deepcopy(plain)
    model.compile_repeated_blocks(**HOW) if how == "blocks" else model.compile(**HOW)
    for _ in range(2):
        for pyramid in (Pyramid.square(1, 2, 3, 4), Pyramid.square(1, 2, 4)):
            ours, theirs = model(images, pyramid), plain(images, pyramid)
            torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-5)
            assert torch.equal(ours[1].tokens_BL, theirs[1].tokens_BL)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_a_tokenizers_activations_are_recomputed(make_tokenizer):
    plain = make_tokenizer(attention=True).train()
    model = copy.deepcopy(plain)
    model.enable_gradient_checkpointing()
    images, grads = torch.randn(2, 3, 8, 8), []
    for each in (plain, model):
        rebuilt, quantized = each(images)
        (rebuilt.square().mean() + quantized.loss).backward()
        grads.append([parameter.grad for parameter in each.parameters()])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*grads, strict=True) if theirs is not None)

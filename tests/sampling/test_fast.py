"""Fast sampling: the same tokens by graphs or compiled blocks, and what makes a new graph necessary."""

import copy
import time
import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from var_pe.models.generator import Walked
from var_pe.pyramid import Pyramid
from var_pe.sampling.fast import From, GraphedWalk, stamp
from var_pe.sampling.pipeline import VARPipeline

Run = Callable[[], Walked]


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


class Repeated:
    """Stands in for CUDA: a run whose inputs and results have their places, as those of a graph have."""

    def __init__(self) -> None:
        self.captured = 0

    def __call__(self, run: Run, modules: Sequence[nn.Module]) -> Run:
        self.captured += 1
        results = run()

        def again() -> Walked:
            for place, value in zip(results, run(), strict=True):
                place.copy_(value)
            return results

        return again


@pytest.fixture
def graphed(pipeline) -> tuple[VARPipeline, Repeated]:
    """The pipeline again, with graphs of a stand-in."""
    capture = Repeated()
    fast = VARPipeline(pipeline.tokenizer, pipeline.transformer, pipeline.class_names)
    fast.fast_walk = GraphedWalk(capture, most=2)
    return fast, capture


def drawn(pipe: VARPipeline, *numbers: int, **settings) -> Tensor:
    labels = [number % 3 for number in numbers]
    return pipe(labels, generator=seeds(*numbers), output_type="tokens", **settings).images


def test_without_a_compiler_the_first_drawing_says_so(pipeline, monkeypatch):
    """torch's own error is a page long, and names neither the option nor the way without it."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    plain = drawn(pipeline, 0)
    pipeline.enable_fast_sampling()
    needs = r"^enable_fast_sampling\(\) compiles .* needs a C\+\+ compiler \(no-such-compiler is not here.*"
    with pytest.raises(ValueError, match=needs + r"; disable_fast_sampling\(\) draws without$"):
        drawn(pipeline, 0)
    pipeline.disable_fast_sampling()
    assert torch.equal(drawn(pipeline, 0), plain)


def test_a_graph_draws_the_same(pipeline, graphed):
    """Labels and random numbers are its inputs; what it drew before is not written over."""
    fast, capture = graphed
    first = drawn(fast, 0, 1)
    assert torch.equal(first, drawn(pipeline, 0, 1))
    second = drawn(fast, 5, 4)
    assert torch.equal(second, drawn(pipeline, 5, 4))
    assert torch.equal(first, drawn(pipeline, 0, 1))
    assert capture.captured == 1
    images = fast(["ant", "bee"], generator=seeds(0, 1), output_type="pt").images
    assert torch.equal(images, pipeline(["ant", "bee"], generator=seeds(0, 1), output_type="pt").images)


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_scale": 3.0},
        {"guidance_schedule": "constant"},
        {"scale_guidance": 1.0},
        {"temperature": [1, 1, 1, 0.5]},
        {"top_k": 3},
        {"top_p": 0.5},
        {"pyramid": [1, 2, 4], "guidance_scale": 0.0},
    ],
    ids=str,
)
def test_another_kind_of_drawing_is_another_graph(settings, make_generator, make_tokenizer, make_loud):
    model = make_loud(make_generator("sinusoidal", level_embedding="sinusoidal"))
    plain, fast = (VARPipeline(make_tokenizer(), model) for _ in range(2))
    capture = Repeated()
    fast.fast_walk = GraphedWalk(capture)
    for _ in range(2):
        drawn(fast, 0, 1)
        assert torch.equal(drawn(fast, 2, 3, **settings), drawn(plain, 2, 3, **settings))
    assert capture.captured == 2


def test_the_batch_and_the_type_make_a_kind(graphed):
    fast, capture = graphed
    drawn(fast, 0, 1)
    drawn(fast, 0)
    with torch.autocast("cpu", torch.bfloat16):
        drawn(fast, 0)
    assert capture.captured == 3


@torch.no_grad()
def test_other_weights_are_not_drawn_by_an_old_graph(pipeline, graphed):
    """Written to in place, moved or replaced: a graph reads where they were."""
    fast, capture = graphed
    drawn(fast, 0, 1)
    pipeline.transformer.head.weight.mul_(-1)
    assert torch.equal(drawn(fast, 0, 1), drawn(pipeline, 0, 1))
    pipeline.tokenizer.quantizer.codebook_VZ.copy_(pipeline.tokenizer.quantizer.codebook_VZ.flip(0))
    assert torch.equal(drawn(fast, 0, 1), drawn(pipeline, 0, 1))
    head = pipeline.transformer.head
    pipeline.transformer.head.weight = nn.Parameter(head.weight + 1)
    assert torch.equal(drawn(fast, 0, 1), drawn(pipeline, 0, 1))
    assert capture.captured == 4


def test_the_graphs_used_last_are_kept(graphed):
    """Each claims memory; of two, the one that was used longer ago goes."""
    fast, capture = graphed
    for batch in (1, 2, 1, 3, 1):
        drawn(fast, *range(batch))
    assert capture.captured == 3
    drawn(fast, 0, 1)
    assert capture.captured == 4
    assert len(fast.fast_walk.graphs) == 2


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"smooth": True}, "smooth"),
        ({"given_tokens": torch.full((1, 30), -1)}, "given tokens"),
        ({"callback_on_level_end": lambda *given: None}, "callback_on_level_end"),
        ({"return_levels": True}, "return_levels"),
    ],
    ids=["smooth", "given", "callback", "levels"],
)
def test_what_no_graph_can_do_is_drawn_without(settings, name, pipeline, graphed):
    """As before, and one sentence says so."""
    fast, capture = graphed
    with pytest.warns(UserWarning, match=f"drawn without fast sampling, which cannot do {name}$"):
        images = fast(0, generator=seeds(0), output_type="pt", **settings).images
    assert torch.equal(images, pipeline(0, generator=seeds(0), output_type="pt", **settings).images)
    assert capture.captured == 0


def test_numbers_that_are_not_finite_are_found(graphed):
    fast, _ = graphed
    with torch.no_grad():
        fast.transformer.head.bias[3] = float("nan")
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="are not finite"):
            drawn(fast, 0)


def test_it_is_off_until_asked_for_and_can_be_turned_off(pipeline):
    assert pipeline.fast_walk is None
    pipeline.enable_fast_sampling()
    assert pipeline.fast_walk is not None
    pipeline.disable_fast_sampling()
    assert pipeline.fast_walk is None


def test_what_a_run_reads_from_elsewhere_is_noted():
    """A graph reads it where it lies, so that it must not be freed; results in between are not among it."""
    module = nn.Linear(3, 3)
    kept, other = torch.randn(2, 3), torch.randn(3)
    with From([module]) as noted:
        x = module(kept) * other[None]
        (x + kept).relu().sum()
    assert {tensor.data_ptr() for tensor in noted.tensors} == {kept.data_ptr(), other.data_ptr()}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["learned", "relative_bias"])
def test_compiled_blocks_draw_the_same(encoding, make_generator, make_tokenizer, make_loud):
    """Greedy tokens; the compiled block serves all layers, and a second drawing compiles nothing."""
    model = make_loud(make_generator(encoding, depth=3))
    pipe = VARPipeline(make_tokenizer(), model)
    expected = [drawn(pipe, *images, top_k=1) for images in ((0, 1), (2, 4))]
    pipe.enable_fast_sampling()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert torch.equal(drawn(pipe, 0, 1, top_k=1), expected[0])
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 4
    assert torch.equal(drawn(pipe, 2, 4, top_k=1), expected[1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


# on a GPU


@pytest.mark.cuda
@pytest.mark.parametrize("encoding", ["learned", "relative_bias", "rope", "learned(resample=timm) + peg"])
def test_cuda_graphs_draw_the_same(encoding, make_generator, make_tokenizer, make_loud):
    """Equal tokens in float32, in bfloat16 by autocast, and after weights have changed."""
    model = make_loud(make_generator(encoding, dim=64, depth=3))
    plain, fast = (VARPipeline(make_tokenizer(), model).to("cuda") for _ in range(2))
    fast.enable_fast_sampling()
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            for settings in ({}, {"top_k": 1}, {"top_k": 5, "top_p": 0.9}, {"guidance_scale": 0.0}):
                for numbers in ((0, 1, 2), (5, 3, 1)):
                    assert torch.equal(drawn(fast, *numbers, **settings), drawn(plain, *numbers, **settings))
    with torch.no_grad():
        model.head.weight.mul_(-1)
    assert torch.equal(drawn(fast, 0, 1, 2), drawn(plain, 0, 1, 2))
    assert fast.fast_walk.graphed.capture.bytes_kept > 0


@pytest.mark.cuda
def test_cuda_draws_what_a_processor_draws(pipeline):
    """The random numbers have the same bits; float32 tokens agree but for ties of rounding."""
    here = drawn(pipeline, 0, 1, 2, 3)
    there = drawn(copy.deepcopy(pipeline).to("cuda"), 0, 1, 2, 3).cpu()
    assert (here == there).float().mean() > 0.95


@pytest.mark.cuda
def test_a_cuda_graph_is_faster(make_generator, make_tokenizer):
    """Small kernels, one after another: the processor cannot start them as fast as they end."""
    model = make_generator("learned", dim=64, depth=8)
    pipe = VARPipeline(make_tokenizer(), model).to("cuda")

    def seconds() -> float:
        drawn(pipe, 0)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            drawn(pipe, 0)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    plain = seconds()
    pipe.enable_fast_sampling()
    assert seconds() < plain


@pytest.mark.cuda
def test_a_cuda_graph_warns_of_nothing(pipeline):
    pipe = pipeline.to("cuda")
    pipe.enable_fast_sampling()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(pipe, 0, pyramid=Pyramid.square(1, 2, 3, 4))


def test_a_graph_of_other_waves_is_out_of_date(make_generator):
    """They are in no tensor."""
    model = make_generator("rope")
    before = stamp(model)
    assert stamp(model) == before
    model.remap_waves("levels")
    assert stamp(model) != before

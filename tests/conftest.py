"""What several test files share: every registered encoding as a config line, tiny models, a pipeline."""

import gc
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from var_pe.interop.export.survey import LINES, redrawn
from var_pe.interop.var.conversion import convert
from var_pe.models.generator import VARTransformer
from var_pe.models.quantizers.codebook import LearnedCodebook
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.sampling.pipeline import VARPipeline

GOLDEN = Path(__file__).parent / "golden"
MEMBERS = LINES
VARIANTS = [
    "mixed(learned=0.7, sinusoidal=0.3, trainable=true)",
    "mixed(learned(init=xavier), sinusoidal(temperature=100), weights=(0.7, -0.3), match_rms=false)",
    "learned(init=sinusoidal, scale=2) + sinusoidal(temperature=50)",
    "mixed(learned_grid=0.5, factorized=0.3, fourier=0.2, gate=true)",
    "fourier(features=gaussian) + rope(coordinates=learned, layout=interleaved, unit=image, level_axis=true)",
    "harope(unit=query) + relative_bias",
    "irpe(method=cross, values=true)",
    "rope(bands=resolved, remap=levels, trained=(2, 2), base=2)",
]


# Every quantizer, for latent maps of at least four channels; and the options that make another one of it
QUANTIZERS = ["vq", "cosine(channels=3)", "simvq", "fsq(levels=[4, 3, 2])", "bsq(bits=4)"]
QUANTIZER_VARIANTS = [
    "vq(learning=ema, gradient=rotation, rate=0.1)",
    "vq(rate=0.1, given=coarser)",
    "cosine(channels=4, learning=ema)",
]


def pytest_collection_finish() -> None:
    """Sets what was imported apart: every training collects garbage, and is to look at its own alone."""
    set_apart()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None):
    """Sets apart what a file of tests leaves behind, such as compiled graphs and modules of libraries."""
    found = yield
    if nextitem is None or nextitem.path != item.path:
        set_apart()
    return found


def set_apart() -> None:
    """Collects garbage, and lets no later collection look at what is left."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(params=MEMBERS + VARIANTS)
def line(request) -> str:
    """Every registered encoding, and a few more lines."""
    return request.param


@pytest.fixture
def make_generator() -> Callable[..., VARTransformer]:
    """A two-block generator of 30 tokens under an encoding; runs in milliseconds."""

    def make(encoding: str = "learned", levels=(1, 2, 3, 4), **options) -> VARTransformer:
        given = dict(codebook_size=16, latent_channels=4, num_classes=3, dim=32, depth=2, num_heads=4)
        return VARTransformer(levels=levels, encoding=encoding, **(given | options)).eval()

    return make


@pytest.fixture
def make_tokenizer() -> Callable[..., VQTokenizer]:
    """A tokenizer that halves images once, for `make_generator`'s codes."""

    def make(levels=(1, 2, 3, 4), **options) -> VQTokenizer:
        given = dict(image_channels=3, codebook_size=16, latent_channels=4, channels=8, norm_groups=4)
        given |= dict(channel_multipliers=(1, 2), attention=False)
        tokenizer = VQTokenizer(levels=levels, **(given | options)).eval()
        if isinstance(tokenizer.quantizer, LearnedCodebook):
            torch.nn.init.normal_(tokenizer.quantizer.codebook_VZ, generator=torch.Generator().manual_seed(1))
        return tokenizer

    return make


@pytest.fixture
def make_vit() -> Callable[..., ViTClassifier]:
    def make(encoding: str = "learned", **options) -> ViTClassifier:
        given = dict(image_size=(8, 12), num_classes=3, patch_size=2, dim=32, depth=2, num_heads=4)
        return ViTClassifier(encoding=encoding, **(given | options)).eval()

    return make


@pytest.fixture
def pipeline(make_generator, make_tokenizer, make_loud) -> VARPipeline:
    """Three named classes, RGB pictures of 8 x 8, tokens that depend on everything before them."""
    pipe = VARPipeline(make_tokenizer(), make_loud(make_generator()), ("ant", "bee", "cat"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def make_loud() -> Callable[[nn.Module], nn.Module]:
    """Redraws a model's small initial weights larger: gates near zero would hide what a test looks for."""
    return redrawn


@pytest.fixture(scope="session")
def stand_in() -> Callable[..., dict[str, Tensor]]:
    """A state as the public VAR code has it: weights from `golden/weights.py`, its fixed buffers."""
    scope: dict = {}
    exec((GOLDEN / "weights.py").read_text(), scope)

    def make(shapes, patch_nums) -> dict[str, Tensor]:
        sizes = [math.prod(side if isinstance(side, tuple) else (side, side)) for side in patch_nums]
        level_L = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        mask_LL = torch.where(level_L[:, None] >= level_L, 0.0, -torch.inf)
        fixed = {"lvl_1L": level_L[None], "attn_bias_for_masking": mask_LL[None, None]}
        for key, shape in shapes.items():
            if key.endswith(("zero_k_bias", "ema_vocab_hit_SV")):
                fixed[key] = torch.zeros(shape)
        return {
            key: fixed[key] if key in fixed else scope["fill"](key, shape) for key, shape in shapes.items()
        }

    return make


@pytest.fixture(scope="session", params=["var_small", "var_shared_aln"])
def golden(request, stand_in) -> SimpleNamespace:
    """The published VAR code's own numbers for stand-in weights, and our models converted from these."""
    case = json.loads((GOLDEN / f"{request.param}.json").read_text())
    keys = case.pop("state_dict")
    states = {
        name: stand_in({key: tuple(shape) for key, (shape, _) in keys[name].items()}, case["patch_nums"])
        for name in ("vqvae", "var")
    }
    tokenizer, transformer = convert(states["vqvae"], states["var"], patch_nums=case["patch_nums"])
    expected = load_file(GOLDEN / f"{request.param}.safetensors")
    return SimpleNamespace(**case, **states, tokenizer=tokenizer, transformer=transformer, expected=expected)

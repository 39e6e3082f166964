"""What several test files share: every registered encoding as a config line, tiny models, a pipeline."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from var_pe.encodings import REGISTRY
from var_pe.interop.var_checkpoint import convert
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.sampling.pipeline import VARPipeline

NEEDS_OPTIONS = {"mixed": "mixed(learned=0.7, sinusoidal=0.3)"}  # the others are lines by their bare name
MEMBERS = [NEEDS_OPTIONS.get(name, name) for name in sorted(REGISTRY)]
VARIANTS = [
    "mixed(learned=0.7, sinusoidal=0.3, trainable=true)",
    "mixed(learned(init=xavier), sinusoidal(temperature=100), weights=(0.7, -0.3), match_rms=false)",
    "learned(init=sinusoidal, scale=2) + sinusoidal(temperature=50)",
    "mixed(learned_grid=0.5, factorized=0.3, fourier=0.2, gate=true)",
    "fourier(features=gaussian) + rope(coordinates=learned, layout=interleaved, unit=image)",
]


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

    def make(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if "scale" not in name and "weight_P" not in name:
                    fan = parameter[0].numel() if parameter.dim() > 1 else 4
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan**-0.5)
        return model

    return make


@pytest.fixture(scope="session", params=["var_small", "var_shared_aln"])
def golden(request) -> SimpleNamespace:
    """The published VAR code's own numbers for stand-in weights, and our models converted from these."""
    folder = Path(__file__).parent / "golden"
    case = json.loads((folder / f"{request.param}.json").read_text())
    scope: dict = {}
    exec((folder / "weights.py").read_text(), scope)
    level_L = torch.cat([torch.full((side**2,), level) for level, side in enumerate(case["patch_nums"])])
    fixed = {"lvl_1L": level_L[None]}
    fixed["attn_bias_for_masking"] = torch.where(level_L[:, None] >= level_L, 0.0, -torch.inf)[None, None]

    def value(key: str, shape: list[int]) -> Tensor:
        if key.endswith(("zero_k_bias", "ema_vocab_hit_SV")):
            return torch.zeros(shape)
        return fixed[key] if key in fixed else scope["fill"](key, tuple(shape))

    states = {
        model: {key: value(key, shape) for key, (shape, _) in keys.items()}
        for model, keys in case.pop("state_dict").items()
    }
    tokenizer, transformer = convert(states["vqvae"], states["var"], patch_nums=case["patch_nums"])
    expected = load_file(folder / f"{request.param}.safetensors")
    return SimpleNamespace(
        **case, **states, tokenizer=tokenizer, transformer=transformer, expected=expected
    )

"""Which encodings can be exported in which model: small models under each are exported and compared."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from var_pe.encodings import REGISTRY
from var_pe.interop.export.any_size import any_size_parts
from var_pe.interop.export.parts import Part, classifier_parts, generator_parts
from var_pe.interop.export.writing import export_part
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.pages.tables import markdown_table

M = TypeVar("M", bound=nn.Module)

# Every registered encoding as a line of a config; those that are not named here are lines by their bare name.
NEEDS_OPTIONS = {
    "blocks": "blocks(learned, size=2)",
    "mixed": "mixed(learned=0.7, sinusoidal=0.3)",
}
LINES = [NEEDS_OPTIONS.get(name, name) for name in sorted(REGISTRY)]
ANY_SIZE = "ViT of any size"
MODELS = ("ViT", ANY_SIZE, "level step")
LEVELS = (1, 3)  # of the generator


@dataclass(frozen=True)
class Outcome:
    """The result of exporting one model under one encoding."""

    # largest difference of its programs; None if it could not be exported
    difference: float | None
    # why not
    refused: str = ""


def table(lines: Sequence[str]) -> Iterator[str]:
    """Lines of Markdown, each as soon as it is known: a row for every encoding, then why some are refused."""
    yield from markdown_table(["encoding", *MODELS], []).splitlines()
    reasons = []
    for line in lines:
        cells = [f"`{line}`"]
        for model in MODELS:
            outcome = outcome_of(model, line)
            if outcome.difference is None:
                cells.append("refused")
                reasons.append(f"- `{line}`, {model}: {outcome.refused}")
            else:
                cells.append(f"{outcome.difference:.0e}")
        yield f"| {' | '.join(cells)} |"
    yield from reasons


def outcome_of(model: str, line: str) -> Outcome:
    """Exports a small model under an encoding into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            exported = [export_part(part, Path(folder)) for part in small_parts(model, line)]
        except ValueError as error:
            return Outcome(None, str(error))
    return Outcome(max(each.difference for each in exported))


def small_parts(model: str, line: str) -> list[Part]:
    """A ViT with a class token, for its own size or any, or the step of a generator's second level.

    Raises:
        ValueError: the ViT cannot be exported for any size.
    """
    if model in ("ViT", ANY_SIZE):
        vit = ViTClassifier(
            image_size=(6, 8),
            num_classes=3,
            encoding=line,
            patch_size=2,
            dim=32,
            depth=1,
            num_heads=4,
            pool="class_token",
        )
        of_size = any_size_parts if model == ANY_SIZE else classifier_parts
        return of_size(redrawn(vit).eval())

    assert model == "level step", f"no parts are written for {model}"
    transformer = VARTransformer(
        levels=LEVELS,
        codebook_size=16,
        latent_channels=4,
        num_classes=3,
        encoding=line,
        dim=32,
        depth=1,
        num_heads=4,
    )

    # The tokenizer whose codes it draws
    tokenizer = VQTokenizer(
        levels=LEVELS,
        codebook_size=16,
        latent_channels=4,
        channels=8,
        channel_multipliers=(1, 2),
        norm_groups=4,
        attention=False,
    )
    return generator_parts(redrawn(transformer).eval(), redrawn(tokenizer).eval())[1:]


def redrawn(model: M) -> M:
    """The model with large random weights: gates that start near zero would hide any difference."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "scale" not in name and "weight_P" not in name:
                fan = parameter[0].numel() if parameter.dim() > 1 else 4
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan**-0.5)
    return model

"""How large a model would be, computed by formula before anything is built.

Matrices and convolutions are counted, biases and norms are not: the numbers are good to a few per cent.
"""

from dataclasses import dataclass
from operator import attrgetter

from var_pe.models.dense.detector import DetectorConfig
from var_pe.models.dense.segmenter import SegmenterConfig
from var_pe.models.generator import GeneratorConfig
from var_pe.models.hierarchy.lines import Convolution, Mobile
from var_pe.models.pretraining import EncoderConfig
from var_pe.models.tokenizer import TokenizerConfig
from var_pe.models.vit import ClassifierConfig

# The largest VAR has 2 billion parameters in 36 blocks. Ten billion are 40 GB in float32; a thousand layers
# are built in seconds.
MOST_PARAMETERS = 10_000_000_000
MOST_LAYERS = 1_000


@dataclass(frozen=True)
class Size:
    parameters: float
    layers: int
    # the settings that the formula takes, by their whole keys
    follows_from: tuple[str, ...]


def size_of_tokenizer(config: TokenizerConfig) -> Size:
    codes, latent = as_float(config.num_codes), as_float(config.latent_channels)
    widths = [as_float(config.channels * multiplier) for multiplier in config.channel_multipliers]

    # encoder and decoder, whose middle has two blocks and an attention each; a block is two convolutions
    blocks = 2 * config.blocks_per_resolution + 1
    resolutions = sum(18 * as_float(blocks) * width**2 for width in widths)
    middle = 2 * (36 + 4) * max(widths, default=0) ** 2
    pixels = 2 * 9 * 3 * as_float(config.patch) ** 2 * widths[0] if widths else 0
    latents = (18 + 9 * as_float(config.num_phi)) * latent**2 + codes * latent
    return Size(
        resolutions + middle + pixels + latents,
        blocks * len(widths) + config.num_phi,
        follows_from=(
            "tokenizer.channels",
            "tokenizer.channel_multipliers",
            "tokenizer.patch",
            "tokenizer.blocks_per_resolution",
            "tokenizer.num_phi",
            "tokenizer.latent_channels",
            "tokenizer.codebook_size",
            "tokenizer.quantizer",
        ),
    )


def size_of_discriminator(channels: int) -> Size:
    """Of the largest one: three halvings of patches of four by four, each twice as wide as the one before."""
    return Size(
        16 * (2 + 8 + 32) * as_float(channels) ** 2,
        5,
        follows_from=("tokenizer_training.adversarial.channels",),
    )


def size_of_generator(config: GeneratorConfig, tokenizer: TokenizerConfig, tokens: int) -> Size:
    """`tokens` are those of an image, for which an encoding may learn a table."""
    dim, codes, latent = (
        as_float(config.dim),
        as_float(tokenizer.num_codes),
        as_float(tokenizer.latent_channels),
    )
    modulation = 0 if config.shared_adaln else 6
    block = (4 + 2 * config.mlp_ratio + modulation) * dim**2
    return Size(
        as_float(config.depth) * block + dim * (codes + latent + tokens + 8 * dim),
        config.depth,
        follows_from=(
            "generator.dim",
            "generator.depth",
            "generator.mlp_ratio",
            "tokenizer.codebook_size",
            "tokenizer.quantizer",
            "tokenizer.latent_channels",
        ),
    )


def size_of_classifier(config: ClassifierConfig, tokens: int) -> Size:
    """`tokens` are the patches of an image, for which an encoding may learn a table."""
    if config.hierarchy:
        return _size_of_hierarchy(config, tokens)

    dim, patch = as_float(config.dim), as_float(config.patch_size)
    block = (4 + 2 * config.mlp_ratio) * dim**2 + as_float(config.prompts) * dim
    pixels = 3 * patch**2 * as_float(config.tubelet or 1)
    rest = dim * (pixels + as_float(config.registers) + as_float(tokens))
    return Size(
        as_float(config.depth) * block + rest,
        config.depth,
        follows_from=(
            "classifier.dim",
            "classifier.depth",
            "classifier.mlp_ratio",
            *(("classifier.prompts",) if config.prompts else ()),
            "classifier.patch_size",
            *(("classifier.tubelet",) if config.tubelet else ()),
            "classifier.registers",
            "data.height",
            "data.width",
        ),
    )


def _size_of_hierarchy(config: ClassifierConfig, tokens: int) -> Size:
    patch, before = as_float(config.patch_size), as_float(config.dim)
    parameters = before * 3 * patch**2

    for shape in config.stages:
        dim, stride = as_float(shape.dim), as_float(shape.stride)
        tokens = tokens // min(shape.stride, 10**6) ** 2

        if isinstance(shape, Convolution):  # two maps to and from the inner width, and two to its gates
            block = 2.5 * as_float(shape.expansion) * dim**2
        else:
            block = (4 + 2 * config.mlp_ratio) * dim**2
        around = 20 * dim**2 if isinstance(shape, Mobile) else 0.0

        parameters += as_float(shape.blocks) * block + around + before * stride**2 * dim
        parameters += as_float(tokens) * dim
        before = dim

    return Size(
        parameters,
        sum(shape.blocks for shape in config.stages),
        follows_from=(
            "classifier.hierarchy",
            "classifier.dim",
            "classifier.mlp_ratio",
            "classifier.patch_size",
            "data.height",
            "data.width",
        ),
    )


def size_of_encoder(config: EncoderConfig, encoder: ClassifierConfig) -> Size:
    """Of what an encoder is trained with and that is thrown away."""
    wide, hidden = as_float(config.decoder_dim), as_float(config.projection_hidden)
    out = as_float(config.projection)
    decoder = as_float(config.decoder_depth) * 12 * wide**2 + wide * as_float(encoder.dim)
    projections = hidden * (as_float(encoder.dim) + hidden + 3 * out)
    return Size(
        projections if config.method == "contrast" else decoder,
        config.decoder_depth if config.method == "pixels" else 0,
        follows_from=(
            "encoder.decoder_dim",
            "encoder.decoder_depth",
            "encoder.projection",
            "encoder.projection_hidden",
            "classifier.dim",
        ),
    )


def size_of_segmenter(config: SegmenterConfig, encoder: ClassifierConfig) -> Size:
    """Of what is on the encoder's maps: of each at most two convolutions, or the blocks between them."""
    last = as_float(encoder.stages[-1].dim if encoder.hierarchy else encoder.dim)
    width, maps = as_float(config.width), 4.0 + len(encoder.hierarchy)
    blocks = as_float(config.depth) * (4 + 2 * encoder.mlp_ratio) * last**2
    return Size(
        maps * (18 * width**2 + 9 * width * last) + (blocks if config.decoder == "transformer" else 0.0),
        config.depth if config.decoder == "transformer" else 0,
        follows_from=("segmenter.width", "segmenter.depth", "segmenter.decoder", "classifier.dim"),
    )


def size_of_detector(config: DetectorConfig, encoder: ClassifierConfig) -> Size:
    """Of what is on the encoder's maps: a pyramid, and two branches of convolutions."""
    last = as_float(encoder.stages[-1].dim if encoder.hierarchy else encoder.dim)
    width, maps = as_float(config.width), 4.0 + len(encoder.hierarchy)
    branches = 2 * as_float(config.convolutions) * 9 * width**2
    return Size(
        maps * (9 * width**2 + width * last) + branches,
        config.convolutions,
        follows_from=("detector.width", "detector.convolutions", "classifier.dim"),
    )


def as_float(number: int) -> float:
    """Also of a number beyond all floats: its products are then too large by any measure."""
    return float(min(number, 10**30))


def refuse_oversized(model: str, size: Size, config: object) -> None:
    """Checks that a model of this size can be built; `config` holds the settings that it follows from.

    Raises:
        ValueError: it cannot; the sentence names the settings.
    """
    if size.parameters <= MOST_PARAMETERS and size.layers <= MOST_LAYERS:
        return

    given = ", ".join(f"{key}={attrgetter(key)(config)}" for key in size.follows_from)
    raise ValueError(
        f"{given} would make a {model} of about {size.parameters:.2g} parameters in {size.layers:,} layers; "
        f"at most {MOST_PARAMETERS:,} in {MOST_LAYERS:,} are built"
    )

"""What `--dry-run` prints: the parameters, tokens and steps that a config leads to."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from var_pe import settings
from var_pe.data.counts import what_is_read
from var_pe.data.shapes import entropy_bits
from var_pe.data.sources import KNOWN, OF_CLIPS, DataConfig, open_source
from var_pe.data.streams import open_stream
from var_pe.encodings import PositionEncoding
from var_pe.encodings.base import HOOKS
from var_pe.encodings.machinery.compose import Composed
from var_pe.models.attention import cut_for, first_seen, levels_of_parts
from var_pe.models.clips import ClipClassifier
from var_pe.models.hierarchy.attention import divisions_of
from var_pe.models.hierarchy.classifier import StagedClassifier
from var_pe.models.hierarchy.clips import HierarchicalClipClassifier
from var_pe.models.hierarchy.lines import AttentionShape, Linear
from var_pe.models.kernels import BY_PARTS, kernel_for
from var_pe.models.pretraining import Contrast, HiddenTokens
from var_pe.models.tokenizer import TokenizerConfig
from var_pe.models.tuning import merge, tune
from var_pe.models.vit import ViTClassifier
from var_pe.progress import number_of, size
from var_pe.pyramid import Pyramid, Sides
from var_pe.stages.begun import kept_grids, start_of, steps_first_asked, training_of
from var_pe.stages.config import Config, Kind, settled_config
from var_pe.stages.drawn_images import drawn_pictures
from var_pe.stages.models import (
    AnyClassifier,
    build_classifier,
    build_discriminator,
    build_generator,
    build_pretrained,
    build_tokenizer,
)
from var_pe.stages.on_maps import ON_MAPS
from var_pe.stages.pyramids import tokenizer_pyramids
from var_pe.stages.run_folder import remarks_on_steps
from var_pe.stages.starts import initialise_from, start_encoder, start_tokenizer
from var_pe.stages.train import check_encoder, check_generator
from var_pe.tasks.classifier import ClassifierTraining
from var_pe.tasks.progressive import share_of_tokens
from var_pe.training.config import TrainingConfig
from var_pe.training.history import Start
from var_pe.training.precision import dtype_of

# What stands above the two parts of a plan; the second one is last, where a terminal shows it.
SETTINGS = "# All settings, as the run's config.yaml will have them. What they lead to stands below them."
LEADS_TO = "# What these settings lead to"

KERNELS = {
    "plain": "plain products",
    "products": "products on slices, computed twice",
    "fused": "the fused kernel",
    "slices": "the fused kernel on slices",
    "flex": "FlexAttention",
}


def plan(config: Config) -> str:
    """The resolved config and, below it, what it leads to; nothing is trained or written."""
    config = settled_config(config)
    images, classes, counted = training_images_and_classes(config)
    lines = [SETTINGS, settings.to_yaml(config), LEADS_TO, _folders(config), counted]
    drawn = check_generator(config) if config.kind == "generator" else []
    if config.kind == "encoder":
        return "\n".join([*lines, *_encoder(config, images)])
    pyramids = dict.fromkeys(drawn)
    if config.kind in ("segmenter", "detector"):
        return "\n".join([*lines, *_dense(config, images)])

    # Models are built without memory, and of those to start from the headers are read.
    with torch.device("meta"):
        if config.classifier is not None:
            there = start_of(Path(config.run))
            classifier = build_classifier(config, classes, kept_grids=kept_grids(there))
            lines += _start("training", there or initialise_from(config, classifier))
            lines += _model("classifier", classifier, config.classifier_training, images)
            lines += _tuned(classifier, config.classifier_training)
            lines += _inside(classifier, config, config.classifier_training)

        else:
            tokenizer = build_tokenizer(config)
            there = start_of(Path(config.tokenizer_run))
            lines += _start("the tokenizer's training", there or start_tokenizer(config, tokenizer))

            there = start_of(Path(config.run))
            generator = build_generator(config, classes, kept_grids=kept_grids(there))
            lines += _start("training", there or initialise_from(config, generator))
            lines += _model("tokenizer", tokenizer, config.tokenizer_training, images)
            lines += [_sizes(tokenizer_pyramids(config), tokenizer.downsampling)]
            lines += [_codes(config.tokenizer)]
            lines += _perceptual(config)
            lines += _game(config, images)
            lines += _redrawn(config, images)

            lines += [_tokens(pyramid) for pyramid in pyramids]
            lines += _model("generator", generator, config.generator_training, images)
            lines += _progressive(drawn, config, images)
            lines += [_encoding(config.generator.encoding, generator.position_encoding)]
            for pyramid in pyramids:
                lines += [
                    _attention(
                        pyramid,
                        0,
                        config.generator.num_heads,
                        generator.position_encoding,
                        config.generator_training,
                        config.generator.levels_before,
                        config.generator.most_keys,
                    )
                ]
    return "\n".join(lines)


def _tuned(classifier: AnyClassifier, training: ClassifierTraining) -> list[str]:
    """What of a classifier is trained, where that is a part; `classifier` is changed for it."""
    if training.tuned == "all":
        return []
    assert isinstance(classifier, ViTClassifier), "the config has been checked"
    tune(classifier, training.tuned, training.lora, seed=0)
    number = sum(parameter.numel() for parameter in classifier.parameters() if parameter.requires_grad)
    merge(classifier)
    return [f"tuned: {training.tuned}, {number:,} parameters are trained"]


def _dense(config: Config, images: int | None) -> list[str]:
    """What a segmenter or detector amounts to; masks or boxes are looked at, as before a training."""
    there = start_of(Path(config.run))
    what, head = "classes of boxes", "FCOS"
    if config.segmenter is not None:
        what, head = "classes of pixels", f"decoder {config.segmenter.decoder}"

    parts = ON_MAPS[config.kind]
    held_out = parts.images(config, train=False)
    number = len(parts.images(config, train=True).class_names)
    with torch.device("meta"):
        model = parts.build(config, number, kept_grids=kept_grids(there))

    training = training_of(config, config.kind)
    maps = "; ".join(f"{shape.stride} pixels a cell, {shape.width} wide" for shape in model.ladder_shapes)
    return [
        f"annotated: {number} {what}; tested on {number_of(len(held_out))}",
        *_start("training", there or start_encoder(config, model)),
        *_model(config.kind, model, training, images),
        *_inside(model.encoder, config, training),
        f"{head}: on maps of {maps}",
    ]


def _encoder(config: Config, images: int | None) -> list[str]:
    """What an encoder that learns without labels amounts to, and what of each image it learns."""
    assert config.encoder is not None
    check_encoder(config)
    method, lines = config.encoder.method, list[str]()
    with torch.device("meta"):
        tokenizer = build_tokenizer(config) if method == "tokens" else None
        there = start_of(Path(config.run))
        model = build_pretrained(config, tokenizer, kept_grids=kept_grids(there))
        start = there or initialise_from(config, model.encoder, ())

    # What of each image it learns
    grid = model.encoder.pyramid.finest
    number, kept = grid[0] * grid[1], sum(p.numel() for p in model.encoder.parameters())
    if isinstance(model, Contrast):
        lines += [f"contrast: two views a picture, told apart from those of {config.encoder_training.batch}"]
    else:
        lines += [f"{method}: {model.hidden} of {number} patches are hidden in every picture"]
    if isinstance(model, HiddenTokens):
        asked = sum(model.hidden * model.cells(level).shape[1] for level in range(model.levels.num_levels))
        lines += [f"tokens: of the levels {model.levels}, {asked} predictions a picture"]
        where = config.tokenizer_run
        is_there = (Path(where) / "tokenizer").exists()
        lines += [f"the tokenizer {'is there and is taken' if is_there else 'is trained first'}, in {where}"]
    return [
        *_start("training", start),
        *_model("encoder", model, config.encoder_training, images),
        f"kept: the encoder alone, {kept:,} parameters",
        *lines,
        *_inside(model.encoder, config, config.encoder_training),
    ]


def _inside(classifier: AnyClassifier, config: Config, training: TrainingConfig) -> list[str]:
    """What a classifier's encodings act on, and what its attention takes."""
    assert config.classifier is not None
    if isinstance(classifier, StagedClassifier):
        blocks = sum(classifier.blocks_by_stage)
        return [
            f"stages: {blocks} blocks in {len(classifier.shapes)}; so classifier.depth="
            f"{config.classifier.depth} is not used",
            *([_clips(classifier)] if isinstance(classifier, HierarchicalClipClassifier) else []),
            *_stages(classifier, training),
        ]
    if isinstance(classifier, ClipClassifier):
        return _of_clips(classifier, config.classifier.num_heads, training)
    return [
        _encoding(config.classifier.encoding, classifier.position_encoding),
        _attention(
            classifier.pyramid,
            classifier.num_before_patches,
            config.classifier.num_heads,
            classifier.position_encoding,
            training,
        ),
    ]


def _of_clips(classifier: ClipClassifier, heads: int, training: TrainingConfig) -> list[str]:
    """The tokens of a clip, what the encoding acts on, and what attention takes among which of them."""
    in_attention = classifier.position_encoding
    both = Composed([classifier.map_position_encoding, in_attention])
    lines = [_clips(classifier), _encoding(classifier.config["encoding"], both)]
    (rows, columns), times = classifier.pyramid.finest, classifier.times
    places = rows * columns
    parts = {"": times * places}
    if classifier.attention == "divided":
        parts = {", at each place over time": times, ", at each moment": places}
    for where, tokens in parts.items():
        prefix = classifier.num_prefix_tokens
        said = _attention(Pyramid(((tokens, 1),)), prefix, heads, in_attention, training)
        lines.append(f"{said}{where}")
    return lines


def _clips(classifier: ClipClassifier | HierarchicalClipClassifier) -> str:
    """What a clip consists of, and what is known of its moments."""
    (rows, columns), times = classifier.pyramid.finest, classifier.times
    known = "" if classifier.time_positions else "; its encoding has positions in a frame, but not in time"
    return f"clips: {classifier.frames} frames, {times} moments of {rows}x{columns} tokens each{known}"


def _start(what: str, start: Start | None) -> list[str]:
    """A line about the trained model that a training starts from, if it does."""
    return [] if start is None else [f"{what} starts from {start.run}: {'; '.join(start.moved)}"]


def _sizes(pyramids: Sequence[Pyramid], downsampling: int) -> str:
    """The sizes of images that the tokenizer is trained on, with the levels of each."""
    sizes = []
    for pyramid in dict.fromkeys(pyramids):
        height, width = (downsampling * side for side in pyramid.finest)
        sizes.append(f"{height}x{width} ({pyramid})")

    one_a_step = "; one of them a step" if len(sizes) > 1 else ""
    return f"tokenizer: trained on {', '.join(sizes)}{one_a_step}"


def _codes(tokenizer: TokenizerConfig) -> str:
    """What a token can be, and the setting of it that counts for nothing."""
    codes, given = tokenizer.num_codes, tokenizer.codebook_size
    unused = f"; its own, so tokenizer.codebook_size={given} is not used" if codes != given else ""
    return f"quantizer {tokenizer.quantizer}: {codes:,} codes{unused}"


def _perceptual(config: Config) -> list[str]:
    """The network in whose features pictures are compared; it is not opened, as a discriminator's is not."""
    perceptual = config.tokenizer_training.perceptual
    if not perceptual.weight:
        return []
    return [f"perceptual distance in features of {perceptual.network}, weight {perceptual.weight:g}"]


def _game(config: Config, images: int | None) -> list[str]:
    """What plays against the tokenizer, and from which step on; nothing if nothing does.

    The network of a discriminator of features is not opened, as its weights may have to be downloaded.
    """
    training = config.tokenizer_training
    adversarial = training.adversarial
    if not adversarial.weight:
        return []

    what = f"features of {training.perceptual.network}"
    if adversarial.discriminator == "patch":
        discriminator = build_discriminator(config, None)
        assert discriminator is not None, "the term has a weight"
        what = f"patches, {sum(p.numel() for p in discriminator.parameters()):,} parameters"
    steps = steps_first_asked(Path(config.tokenizer_run), training.steps_for(images))
    first = adversarial.first_step(steps)
    return [f"discriminator of {what}; it plays from step {first + 1} on"]


def _redrawn(config: Config, images: int | None) -> list[str]:
    """What of a tokenizer alone is trained, and from which step on its tokens are drawn anew."""
    training, redrawn = config.tokenizer_training, config.tokenizer_training.redrawn
    lines = []
    if training.tuned == "decoder":
        lines.append(f"tuned: decoder; the tokens are those of {config.tokenizer_init_from}")
    if redrawn.share and redrawn.images:
        steps = steps_first_asked(Path(config.tokenizer_run), training.steps_for(images))
        first = redrawn.first_step(steps)
        lines.append(
            f"redrawn: up to {redrawn.share:.0%} of the tokens of the last one or two levels, in "
            f"{redrawn.images:.0%} of the images, from step {first + 1} on"
        )
    return lines


def _folders(config: Config) -> str:
    if config.classifier is not None:
        return f"writes: {config.run}"

    there = (Path(config.tokenizer_run) / "tokenizer").exists()
    todo = "is there and is taken" if there else "is trained first"
    return f"writes: {config.run}; the tokenizer, which runs share, {todo}, in {config.tokenizer_run}"


def training_images_and_classes(config: Config) -> tuple[int | None, int, str]:
    """The number of training images (None: a stream), that of classes, and lines about both splits."""
    images, classes, note = _source(config.data)
    read = [] if note else what_is_read(config.data)
    drawn = config.classifier_training.drawn_images
    if config.kind == "classifier" and drawn:
        images, note = len(drawn_pictures(Path(drawn))), f", drawn ones in {drawn}{note}"
    if config.data.source == "shapes":
        note += f"; {entropy_bits():.2f} bits of entropy a picture"
    what = "training clip" if config.data.source in OF_CLIPS else "training image"
    known = f"a stream of {what}s" if images is None else number_of(images, what)
    of_classes = number_of(classes, "class", "classes") if classes else "no classes"
    first = f"data: {known}, {of_classes}{note}"
    return images, classes, "\n".join([first, *read])


def _source(data: DataConfig) -> tuple[int | None, int, str]:
    """Images and classes of the training split; the published numbers if a known data set is not here."""
    try:
        source: Any = open_stream(data, True) if data.streaming else open_source(data, True)
    except ValueError as error:
        own = data.path or data.hub_id or data.label_column or data.train_split != "train"
        if own or data.source not in KNOWN:
            raise
        known = KNOWN[data.source]
        classes = len(data.classes) or known.classes
        images = known.train_images * classes // known.classes
        number = None if data.streaming else min(images, data.limit or images)
        if number is not None and data.train_share < 1:
            number = max(1, round(data.train_share * number))
        return number, classes, f" as published, not counted: {error}"

    return None if data.streaming else len(source), len(source.class_names), ""


def _tokens(pyramid: Pyramid) -> str:
    levels = ", ".join(f"{h}x{w}: {h * w}" for h, w in pyramid.grids)
    return f"tokens: {pyramid.num_tokens} an image ({levels})"


def _model(name: Kind, model: nn.Module, training: TrainingConfig, images: int | None) -> list[str]:
    parameters = sum(p.numel() for p in model.parameters())
    steps = training.steps_for(images)
    epochs = "" if images is None else f", {steps * training.batch / images:.3g} epochs"
    each = f"{number_of(steps, 'step')} of {number_of(training.batch, 'image')}"
    return [
        f"{name}: {parameters:,} parameters; {each}{epochs}",
        *remarks_on_steps(training, name, images),
    ]


def _progressive(pyramids: Sequence[Pyramid], config: Config, images: int | None) -> list[str]:
    """When each level comes in, and how many tokens that saves; nothing if all are in from the start."""
    progressive = config.generator_training.progressive
    if progressive is None:
        return []

    steps = config.generator_training.steps_for(images)
    counted = steps_first_asked(Path(config.run), steps)
    own = pyramids[0].num_levels
    stages = [f"{min(progressive.first, own)} of {own} levels from step 0"]
    for step in range(1, counted):
        levels = progressive.levels_at(step, counted, own)
        if levels > progressive.levels_at(step - 1, counted, own):
            stages.append(f"{levels} from step {step}")
    share = share_of_tokens(progressive, steps, pyramids, counted=counted)
    return [f"progressive: {', '.join(stages)}; {share:.0%} of the tokens of all steps are computed"]


def _encoding(line: str, encoding: PositionEncoding) -> str:
    """What an encoding acts on."""
    hooks = [hook for hook in HOOKS if encoding.uses(hook)]
    parameters = sum(p.numel() for p in encoding.parameters())
    attention = "attention is left as it is"
    if encoding.adds_to_scores:
        attention = "flash attention is lost: scores get a bias"
    elif encoding.width_of(1) > 1:
        attention = f"queries, keys and the cache are {encoding.width_of(1)} times as wide"
    return f"encoding {line}: {parameters:,} parameters; acts on {', '.join(hooks) or 'nothing'}; {attention}"


def _stages(classifier: StagedClassifier, training: TrainingConfig) -> list[str]:
    """For each stage its map, what its encoding acts on, and what its attention takes."""
    encodings = classifier.position_encodings()
    lines = []
    for index, shape in enumerate(classifier.shapes):
        grid = classifier.sides(index)
        blocks = number_of(shape.blocks, "block")
        cells = "x".join(map(str, grid))
        lines.append(f"stage {index + 1}, {shape.kind}: {cells} cells, {shape.dim} wide, {blocks}")
        if isinstance(shape, AttentionShape):
            in_attention = encodings[f"stages.{index}.position_encoding"]
            both = Composed([encodings[f"stages.{index}.map_position_encoding"], in_attention])
            lines.append(f"  {_encoding(shape.encoding, both)}")
            lines.append(f"  {_attention_of_stage(shape, grid, in_attention, training)}")
    return lines


def _attention_of_stage(
    shape: AttentionShape, grid: Sides, encoding: PositionEncoding, training: TrainingConfig
) -> str:
    """In how many parts a stage attends, by which kernel, and what scores take."""
    if isinstance(shape, Linear):
        return f"attention: {prod(grid)} tokens through a kernel's features, without scores"

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtype_of(training.precision, device)
    division = divisions_of(shape, grid)[-1]
    parts, queries, keys = division.sizes
    has_bias = encoding.adds_to_scores
    kernel = kernel_for(device, dtype, queries, keys, needs_grad=True, has_bias=has_bias)

    if encoding.uses("values"):
        kernel = "plain"

    among = f"{queries} tokens" if queries == keys else f"{queries} tokens and {keys} in their sight"
    said = f"attention: {number_of(parts, 'part')} of {among} on {device} by {KERNELS[kernel]}"
    scores = shape.heads * parts * queries * keys
    if kernel == "plain":
        said += f"; each layer keeps {size(scores * dtype.itemsize)} of scores an image"
    if has_bias:
        added = parts if encoding.uses("products") or division.visible(torch.device("cpu")) is not None else 1
        said += f"; a bias of at most {size(shape.heads * added * queries * keys * 4)}"
    return said


def _attention(
    pyramid: Pyramid,
    prefix: int,
    heads: int,
    encoding: PositionEncoding,
    training: TrainingConfig,
    before: int | None = None,
    most_keys: int | None = None,
) -> str:
    """Which kernel serves the training on this machine, in how many calls, and what scores take.

    `before` and `most_keys` are a generator's `levels_before` and `most_keys`.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtype_of(training.precision, device)
    has_bias = encoding.adds_to_scores
    tokens = prefix + pyramid.num_tokens
    kernel = kernel_for(device, dtype, tokens, tokens, needs_grad=True, has_bias=has_bias)
    kernel, coarse = cut_for(encoding, pyramid.grids, kernel, few_keys=most_keys is not None)
    if coarse == 0:  # each level is a call of its own, the finest the largest
        queries, keys = pyramid.finest[0] * pyramid.finest[1], min(tokens, most_keys or tokens)
        kernel = kernel_for(device, dtype, queries, keys, needs_grad=True, has_bias=has_bias)

    if encoding.uses("values") and kernel not in BY_PARTS:
        kernel = "plain"

    # How many of the scores are worked out: all, or those of each call
    number, pairs = 1, tokens**2
    if (kernel in BY_PARTS or coarse == 0) and not prefix:
        tokens_K = [h * w for h, w in pyramid.grids]
        calls = levels_of_parts(tokens_K, coarse)
        number = len(calls)
        pairs = 0
        for first, stop in calls:
            seen = sum(tokens_K[first_seen(first, before) : stop])
            pairs += sum(tokens_K[first:stop]) * min(seen, most_keys or seen)

    said = f"attention: {tokens} tokens on {device} by {KERNELS[kernel]}, {number_of(number, 'call')} a layer"
    if most_keys is not None:
        said += f", to at most {number_of(most_keys, 'key')} each"
    if kernel == "plain":
        said += f"; each layer keeps {size(heads * pairs * dtype.itemsize)} of scores an image"
    if has_bias:
        kept = "held for one layer at a time or once for all" if kernel in BY_PARTS else "held by each layer"
        each = " for each image" if encoding.uses("products") else ""
        said += f"; a bias of at most {size(heads * pairs * 4)}{each}, {kept}"
    return said

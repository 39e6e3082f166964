"""Trains what a config describes, from a tokenizer to a detector, each in one function.

A stage returns the finished model if its folder holds one. Otherwise it makes images, tokens, model and task,
claims the run folder, trains, and puts the result in place. The folder is claimed last, so that a config that
is refused leaves no trace.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator

from var_pe.data.augmented import Augmented
from var_pe.data.counts import what_is_read
from var_pe.data.hidden_patches import HeldOutHidden, HiddenPatches, WithTokens
from var_pe.data.image_set import TrainingSet
from var_pe.data.images import ImageDataset
from var_pe.data.sources import DataConfig
from var_pe.data.token_cache import TokenDataset
from var_pe.data.views import HeldOutViews, TwoViews, Views
from var_pe.encodings.machinery.bands import remapped
from var_pe.evaluation.segmentation import check_library
from var_pe.models.classifier import Classifier
from var_pe.models.dense.detector import Detector
from var_pe.models.dense.segmenter import Segmenter
from var_pe.models.generator import VARTransformer
from var_pe.models.pretraining import Contrast, HiddenPixels, Pretrained
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.transfer import keep_new
from var_pe.models.tuning import merge, tune
from var_pe.models.vit import ViTClassifier
from var_pe.processes import Processes
from var_pe.pyramid import Pyramid
from var_pe.stages.begun import (
    ask,
    check_codes,
    check_numbers,
    is_finished,
    kept_grids,
    training_of,
    with_ways,
)
from var_pe.stages.config import Config, rules_of, settled_config
from var_pe.stages.drawn_images import DrawnImages
from var_pe.stages.images import (
    held_out_images,
    held_out_images_at,
    training_images,
    training_images_at,
)
from var_pe.stages.models import (
    build_classifier,
    build_discriminator,
    build_generator,
    build_pretrained,
    build_tokenizer,
    feature_network,
    load_classifier,
    load_model,
    weights_hash,
)
from var_pe.stages.on_maps import ON_MAPS
from var_pe.stages.pyramids import generator_pyramids, tokenizer_pyramids
from var_pe.stages.run_folder import check_folders, check_settings, claim, put_in_place, say_already_there
from var_pe.stages.starts import (
    blend_again,
    check_codes_are_kept,
    initialise_from,
    start_encoder,
    start_tokenizer,
)
from var_pe.stages.tokens import held_out_tokens, training_tokens
from var_pe.tasks.classifier import ClassifierTask
from var_pe.tasks.fading import Fading
from var_pe.tasks.generator import GeneratorTask
from var_pe.tasks.pretraining import ContrastTask, HiddenPixelsTask, HiddenTokensTask
from var_pe.tasks.pyramids import one_of
from var_pe.tasks.tokenizer import TokenizerTask, TokenizerTraining
from var_pe.training.history import History, Rule
from var_pe.training.loop import train


def train_tokenizer(config: Config, accelerator: Accelerator, extend: Rule | None = None) -> VQTokenizer:
    """The tokenizer that the config names: loaded if it is finished, else trained (or resumed, or extended).

    Raises:
        ValueError: the folder holds a tokenizer with other settings, cannot be extended so, or is the
            generator's, too.
    """
    check_folders(config)
    folder = Path(config.tokenizer_run)
    config = settled_config(config)
    training, seed = config.tokenizer_training, config.tokenizer_seed
    check_settings(folder, config, "tokenizer")
    if is_finished(config, folder, "tokenizer"):
        say_already_there(folder / "tokenizer", accelerator, extend)
        return load_model(VQTokenizer, folder / "tokenizer")

    # Images for each pyramid that a step may train on
    pyramids, model = tokenizer_pyramids(config), build_tokenizer(config)
    network = feature_network(config)
    discriminator = build_discriminator(config, network)
    if network is not None:
        network = network.to(accelerator.device)
    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    cell = model.downsampling
    images = training_images_at(config, pyramids, cell, processes, seed)
    held_out = held_out_images_at(config, pyramids, cell, training.validation_images)

    first = images[pyramids[0]]
    dataset = one_of([images[pyramid] for pyramid in pyramids], training.batch, seed)
    history = ask(config, folder, "tokenizer", first.num_images, extend, training_set=first.identity)
    history = with_ways(history, config, "tokenizer", processes)
    if history.start is None:
        history = replace(history, start=start_tokenizer(config, model))
    if training.tuned == "decoder":
        check_codes_are_kept(history.start, model)
        model.keep_tokens()

    task = TokenizerTask(
        model,
        dataset,
        pyramids,
        held_out,
        training,
        steps=history.steps,
        first_asked=history.asked[0].steps,
        seed=seed,
        trained_codes=history.start.codes if history.start else 0,
        network=network,
        discriminator=discriminator,
        processes=processes,
    )

    run = claim(folder, "tokenizer", config, history, accelerator)
    say_what_psnr_decides(training, processes)
    trained = train(task, training, run, history, seed=seed)
    put_in_place(run, "tokenizer", config, trained, dataset, history, first.class_names)
    return load_model(VQTokenizer, folder / "tokenizer")


def train_generator(
    config: Config, tokenizer: VQTokenizer, accelerator: Accelerator, extend: Rule | None = None
) -> VARTransformer:
    """The generator in the run's folder: loaded if it is finished, else trained on the tokenizer's codes.

    Raises:
        ValueError: the folder holds a generator with other settings or of other codes, or this one cannot be
            trained or extended so.
    """
    folder = Path(config.run)
    config = settled_config(config)
    training, seed = config.generator_training, config.seed
    pyramids = check_generator(config)
    if is_finished(config, folder, "generator"):
        say_already_there(folder / "generator", accelerator, extend)
        return load_model(VARTransformer, folder / "generator")

    # Images for each pyramid that a step may train on, augmented from the tokenizer's seed as its images were
    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    tokenizer = tokenizer.to(accelerator.device)
    cell = tokenizer.downsampling
    images = training_images_at(config, pyramids, cell, processes, config.tokenizer_seed)
    first = images[pyramids[0]]
    codes = weights_hash(Path(config.tokenizer_run) / "tokenizer")
    history = ask(config, folder, "generator", first.num_images, extend, codes, training_set=first.identity)
    history = with_ways(history, config, "generator", processes)
    of_tokenizer = History.read(Path(config.tokenizer_run))
    if of_tokenizer and of_tokenizer.training_set not in (None, first.identity):
        processes.say(
            f"{config.tokenizer_run} was trained on other pictures than the generator would be: some were "
            "added, removed, replaced or renamed since"
        )

    # Their tokens, encoded once and cached; without views, every batch is encoded when it is used.
    training_sets: Mapping[Pyramid, TrainingSet] = images
    if training.views:
        training_sets = training_tokens(config, tokenizer, images, processes)
    dataset = one_of([training_sets[pyramid] for pyramid in pyramids], training.batch, seed)
    held_out = held_out_tokens(config, tokenizer, list(images), training.validation_images)

    model = build_generator(config, len(first.class_names), kept_grids=kept_grids(history.start))
    if history.start is None:
        history = replace(history, start=initialise_from(config, model, first.class_names))
    else:
        blend_again(model, history.start)
    task = GeneratorTask(
        model,
        tokenizer,
        dataset,
        pyramids,
        held_out,
        training,
        config.sampling,
        steps=history.asked[0].steps,
        fading=Fading.of(model, config.model.retrofit, history.asked[0].steps),
        seed=seed,
        class_names=first.class_names,
    )

    run = claim(folder, "generator", config, history, accelerator)
    trained = train(task, training, run, history, seed=seed)
    keep_new(cast(VARTransformer, trained.model))
    put_in_place(run, "generator", config, trained, dataset, history, first.class_names)
    return load_model(VARTransformer, folder / "generator")


def train_classifier(config: Config, accelerator: Accelerator, extend: Rule | None = None) -> Classifier:
    """The classifier in the run's folder: loaded if it is finished, else trained.

    Raises:
        ValueError: the folder holds a classifier with other settings, there are fewer than two classes, or it
            cannot be extended so.
    """
    assert config.classifier is not None, "only a config with a classifier section trains one"
    folder = Path(config.run)
    config = settled_config(config)
    training, seed = config.classifier_training, config.seed
    check_settings(folder, config, "classifier")
    if is_finished(config, folder, "classifier"):
        say_already_there(folder / "classifier", accelerator, extend)
        return load_classifier(folder / "classifier")

    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    images = training_images(config, processes, seed)
    class_names = tuple(images.class_names)
    if len(class_names) < 2:
        raise ValueError(
            f"a classifier needs at least two classes, {config.data.source} has {len(class_names)}"
        )

    # The training split, with or without RandAugment, or drawn images instead
    dataset: TrainingSet = images
    identity = images.identity
    if training.rand_augment:
        if not isinstance(images, ImageDataset):
            raise ValueError(
                "classifier_training.rand_augment needs images by index, which a stream does not have: "
                "set data.streaming=false"
            )
        dataset = Augmented(images, training.rand_augment, seed)
    if training.drawn_images:
        dataset = drawn = DrawnImages(Path(training.drawn_images), class_names)
        identity = drawn.identity

    history = ask(config, folder, "classifier", dataset.num_images, extend, training_set=identity)
    history = with_ways(history, config, "classifier", processes)
    model = build_classifier(config, len(class_names), kept_grids=kept_grids(history.start))
    if history.start is None:
        history = replace(history, start=initialise_from(config, model, class_names))
    else:
        blend_again(model, history.start)
    if training.tuned != "all":
        tune(cast(ViTClassifier, model), training.tuned, training.lora, seed)
    held_out = held_out_images(config, training.validation_images)
    steps = history.asked[0].steps
    task = ClassifierTask(model, dataset, held_out, training, Fading.of(model, config.model.retrofit, steps))

    run = claim(folder, "classifier", config, history, accelerator)
    trained = train(task, training, run, history, seed=seed)
    keep_new(cast(Classifier, trained.model))
    merge(trained.model)
    put_in_place(run, "classifier", config, trained, dataset, history, class_names)
    return load_classifier(folder / "classifier")


def train_encoder(
    config: Config, tokenizer: VQTokenizer | None, accelerator: Accelerator, extend: Rule | None = None
) -> Classifier:
    """The encoder in the run's folder: loaded if it is finished, else trained without labels.

    `tokenizer` is the one whose tokens it learns, if it learns any.

    Raises:
        ValueError: the folder holds an encoder with other settings or of other codes, or this one cannot be
            trained or extended so.
    """
    assert config.encoder is not None, "only a config with an encoder section trains one"
    folder, learns = Path(config.run), config.encoder
    config = settled_config(config)
    training, seed = config.encoder_training, config.seed
    check_encoder(config)
    if is_finished(config, folder, "encoder"):
        say_already_there(folder / "encoder", accelerator, extend)
        return load_classifier(folder / "encoder")

    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    images = training_images(config, processes, seed)
    assert isinstance(images, ImageDataset), "the config refuses a stream"
    codes = None if tokenizer is None else weights_hash(Path(config.tokenizer_run) / "tokenizer")
    history = ask(config, folder, "encoder", images.num_images, extend, codes, training_set=images.identity)
    history = with_ways(history, config, "encoder", processes)
    model = build_pretrained(config, tokenizer, kept_grids=kept_grids(history.start))
    if history.start is None:
        history = replace(history, start=initialise_from(config, model.encoder, ()))
        if isinstance(model, Contrast):
            model.start_slowly()

    # What of each image is hidden, or two views of it
    held_out = held_out_images(config, training.validation_images)
    task: HiddenPixelsTask | HiddenTokensTask | ContrastTask
    if isinstance(model, Contrast):
        views = views_of(config)
        task = ContrastTask(
            model,
            TwoViews(images, views, seed),
            HeldOutViews(held_out, views),
            temperature=learns.temperature,
            momentum=learns.momentum,
            steps=history.steps,
            processes=processes,
        )
    else:
        grid = model.encoder.pyramid.finest
        hidden = HiddenPatches(images, grid, learns.share, learns.hidden_block, seed)
        held_out_hidden = HeldOutHidden(held_out, grid, learns.share, learns.hidden_block)

        if isinstance(model, HiddenPixels):
            task = HiddenPixelsTask(model, hidden, held_out_hidden, grid)
        else:
            assert tokenizer is not None, "whoever wants tokens has a tokenizer"
            tokenizer = tokenizer.to(accelerator.device)
            known = tokens_of_images(config, tokenizer, images, processes)
            with_tokens = hidden if known is None else WithTokens(hidden, known)
            task = HiddenTokensTask(model, tokenizer, with_tokens, held_out_hidden)

    run = claim(folder, "encoder", config, history, accelerator)
    trained = train(task, training, run, history, seed=seed)
    assert isinstance(trained.model, Pretrained)
    kept = replace(trained, model=trained.model.encoder)
    put_in_place(run, "encoder", config, kept, task.dataset, history, ())
    return load_classifier(folder / "encoder")


def check_encoder(config: Config) -> None:
    """Checks an encoder's settings and folder; also called before a tokenizer is trained for it.

    Raises:
        ValueError: they do not fit, or the folder holds an encoder with other settings or of other codes.
    """
    assert config.encoder is not None
    folder, settled = Path(config.run), settled_config(config)
    check_settings(folder, settled, "encoder")
    if not is_finished(settled, folder, "encoder"):
        check_numbers(folder)
    tokenizer = None
    with torch.device("meta"):
        if config.encoder.method == "tokens":
            check_folders(config)
            check_codes(config)
            tokenizer = build_tokenizer(config)
        build_pretrained(settled, tokenizer)


def views_of(config: Config) -> Views:
    """How the config's views are made of its images."""
    assert config.encoder is not None
    data, encoder = config.data, config.encoder
    return Views(
        data.height, data.width, data.channels, encoder.smallest_crop, encoder.mirror, encoder.jitter
    )


def tokens_of_images(
    config: Config, tokenizer: VQTokenizer, images: ImageDataset, processes: Processes
) -> TokenDataset | None:
    """The tokens of the training images, encoded once; None where an image looks different in every epoch."""
    if images.augments:
        return None
    of_one_view = replace(config, generator_training=replace(config.generator_training, views=1))
    pyramid = tokenizer.pyramid
    return training_tokens(of_one_view, tokenizer, {pyramid: images}, processes)[pyramid]


def train_on_maps(
    config: Config, accelerator: Accelerator, extend: Rule | None = None
) -> Segmenter | Detector:
    """The segmenter or detector in the run's folder: loaded if it is finished, else trained.

    Raises:
        ValueError: the folder holds one with other settings, the data have no masks or boxes or wrong ones,
            or it cannot be extended so.
    """
    folder, kind = Path(config.run), config.kind
    config = settled_config(config)
    parts, training = ON_MAPS[kind], training_of(config, kind)
    check_settings(folder, config, kind)
    if is_finished(config, folder, kind):
        say_already_there(folder / kind, accelerator, extend)
        return load_model(parts.model, folder / kind)

    check_library()
    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    dataset = parts.images(config, train=True)
    held_out = parts.images(config, train=False, number=training.validation_images)

    identity, number = dataset.identity, dataset.num_images
    history = ask(config, folder, kind, number, extend, training_set=identity)
    history = with_ways(history, config, kind, processes)
    model = parts.build(config, len(dataset.class_names), kept_grids=kept_grids(history.start))
    if history.start is None:
        history = replace(history, start=start_encoder(config, model))
    task = parts.task(model, dataset, held_out, training)

    run = claim(folder, kind, config, history, accelerator)
    trained = train(task, training, run, history, seed=config.seed)
    put_in_place(run, kind, config, trained, dataset, history, dataset.class_names)
    return load_model(parts.model, folder / kind)


def say_what_is_read(data: DataConfig, processes: Processes) -> None:
    """Prints how many pictures of each class are trained and tested on, and what is left out."""
    for sentence in what_is_read(data):
        processes.say(sentence)


def say_what_psnr_decides(training: TokenizerTraining, processes: Processes) -> None:
    """Prints a remark if PSNR, which an adversarial term lowers, says which average is kept or how long."""
    going_by_it = {"keep=best": training.keep == "best", "patience": training.patience > 0}
    by_psnr = [name for name, on in going_by_it.items() if on]
    if by_psnr and training.adversarial.weight:
        processes.say(
            f"tokenizer_training.{' and '.join(by_psnr)} may undo the adversarial term, which usually "
            "lowers validation/psnr, by which they go: set keep=last and patience=0"
        )


def check_generator(config: Config) -> list[Pyramid]:
    """The pyramids of the generator's training, checked; also called before the tokenizer is trained.

    Raises:
        ValueError: the generator cannot follow one of them, a stream would have to be cached as tokens,
            previews cannot be drawn by the sampling settings, or the folder holds a generator with other
            settings or of other codes, or one whose steps another version began.
    """
    folder, settled = Path(config.run), settled_config(config)
    check_settings(folder, settled, "generator")
    if not is_finished(settled, folder, "generator"):
        check_numbers(folder)
    check_codes(config)
    if config.data.streaming and config.generator_training.views:
        raise ValueError("data.streaming=true allows no token cache: set generator_training.views=0")
    pyramids = generator_pyramids(config)
    with rules_of("sampling"):
        config.sampling.check_levels(pyramids[0].num_levels)
        if config.sampling.remap != "none":
            remapped(config.generator.encoding, config.sampling.remap, pyramids[0].grids[-1])
    return pyramids

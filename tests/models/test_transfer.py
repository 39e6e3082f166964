"""Going on from a trained classifier: moved as asked, layer after layer, and resumable as any training."""

import copy
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import default_collate

from var_pe import settings
from var_pe.data.sampler import Draw, EndlessSampler
from var_pe.files import write_text
from var_pe.models.transfer import ModelStart, start_from
from var_pe.models.vit import ViTClassifier
from var_pe.resampling.conventions import resample_table
from var_pe.stages.config import Config
from var_pe.stages.images import held_out_images
from var_pe.stages.models import (
    build_classifier,
    build_generator,
    build_tokenizer,
)
from var_pe.stages.plan import plan
from var_pe.stages.score import score_classifier
from var_pe.stages.starts import initialise_from
from var_pe.stages.train import train_classifier
from var_pe.tasks.classifier import ClassifierTask, ClassifierTraining
from var_pe.training.groups import ONE_RATE, LayerRates, parameter_groups
from var_pe.training.history import History, StepsAsked
from var_pe.training.loop import train
from var_pe.training.run import Run

STEPS = 8
RULES = dict(batch=4, trackers=[], log_every=1, schedule="constant", warmup=0.0, weight_decay=0.1)


class Pictures:
    """Sixteen small pictures of three classes, read by draw or by number."""

    num_images = 16
    class_names = ("ant", "bee", "cat")

    def __init__(self) -> None:
        self.images = torch.rand(16, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self) -> int:
        return 16

    def __getitem__(self, key):
        draw = Draw.of(key)
        label = draw.index % 3
        return {"image": self.images[draw.index], "label": label, "draw_number": draw.draw_number}


def go(folder, model, pictures=None, steps=STEPS, **rules):
    """The weights after each step, raw, from the checkpoints of one training."""
    config = ClassifierTraining(**(RULES | rules))
    run = Run(folder, Accelerator(cpu=True))
    states, pictures = [], pictures or Pictures()

    class Watched(ClassifierTask):
        def after_step(self, model, step, accelerator, updates):
            states.append({name: p.detach().clone() for name, p in model.named_parameters()})
            return {}

    try:
        history = History((StepsAsked(0, steps),))
        train(Watched(model, pictures, pictures, config), config, run, history, seed=0)
    finally:
        run.release()
    return states


def changed(before, after, layers):
    """Which layers have a parameter that is another one now."""
    return {layers.below_head(name) for name in before if not torch.equal(before[name], after[name])}


def test_layers_count_from_the_head_down(make_vit):
    """Decay and unfreezing go by this order; an off-by-one would be silent."""
    layers = LayerRates(depth=2)
    found = {layers.below_head(name): name for name, _ in make_vit(pool="class_token").named_parameters()}
    assert sorted(found) == [0, 1, 2, 3]
    assert found[0].startswith("head.")
    assert found[1].startswith("blocks.1.")
    assert found[2].startswith("blocks.0.")
    names = ("norm.weight", "patch_embed.weight", "prefix_tokens_PC", "position_encoding.table_LC")
    assert [layers.below_head(name) for name in names] == [0, 3, 3, 3]


def test_shares_are_powers_of_the_decay_from_the_step_on_at_which_a_layer_thaws():
    """BEiT's rule, and a function of the step alone."""
    layers = LayerRates(depth=2, decay=0.5, unfreeze_every=10)
    assert [layers.share(layer, 9) for layer in range(4)] == [1, 0, 0, 0]
    assert [layers.share(layer, 10) for layer in range(4)] == [1, 0.5, 0, 0]
    assert [layers.share(layer, 30) for layer in range(4)] == [1, 0.5, 0.25, 0.125]
    assert [LayerRates(2, 0.5).share(layer, 0) for layer in range(4)] == [1, 0.5, 0.25, 0.125]


def test_every_parameter_is_in_one_group_with_its_layers_rate(make_vit):
    """A parameter in no group never learns, and one in two learns twice."""
    model, layers = make_vit(), LayerRates(depth=2, decay=0.5)
    groups = parameter_groups(model, 0.1, layers)
    assert len(groups) == 8
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, model.parameters()))
    assert len(parameter_groups(model, 0.1, ONE_RATE)) == 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_layers_thaw_from_the_head_down_and_frozen_ones_keep_every_bit(tmp_path, make_vit, accumulate):
    """Weight decay, momentum or the average must not move what is said to be frozen."""
    model = make_vit()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    states = go(tmp_path, model, unfreeze_every=2, accumulate=accumulate)
    for step, (before, after) in enumerate(zip([start, *states[:-1]], states, strict=True)):
        assert changed(before, after, LayerRates(2)) == set(range(min(3, step // 2) + 1))


def test_a_thawed_layer_starts_as_adam_starts(tmp_path, make_vit):
    """Counted from the run's first step, its first updates would be many times too long or too short."""
    model = make_vit()
    rates = dict(learning_rate=1e-3, weight_decay=0.0, betas=[0.9, 0.999], layer_decay=0.5, max_grad_norm=1e9)
    states = go(tmp_path, model, steps=7, unfreeze_every=6, **rates)
    moved = (states[6]["blocks.1.mlp.fc1.weight"] - states[5]["blocks.1.mlp.fc1.weight"]).abs()
    assert float(moved.max()) == pytest.approx(1e-3 * 0.5, rel=1e-2)


def test_frozen_gradients_count_for_no_norm(tmp_path, make_vit):
    """Clipped by the norm of what is not trained, the head would hardly learn."""
    model = make_vit()
    go(tmp_path, model, steps=1, unfreeze_every=5)
    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["grad_norm"]
    fresh, pictures = make_vit().train(), Pictures()
    items = [pictures[draw] for draw in next(iter(EndlessSampler(16, 4, 0)))]
    batch = default_collate(items)
    ClassifierTask(fresh, pictures, pictures, ClassifierTraining(**RULES)).loss(fresh, batch, 0)[0].backward()
    head = [p.grad.norm() for name, p in fresh.named_parameters() if LayerRates(2).below_head(name) == 0]
    assert logged == pytest.approx(float(torch.stack(head).norm()), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_training_that_thaws_resumes_bit_for_bit(tmp_path, make_vit, step, optimizer):
    """What is frozen is a matter of the step, so a stop between two stages changes nothing.

    Muon has a group of matrices in blocks for each layer, which head and patches have none of.
    """
    rules = dict(unfreeze_every=2, layer_decay=0.75, optimizer=optimizer)
    whole = go(tmp_path / "whole", make_vit(), **rules)
    go(tmp_path / "parts", make_vit(), steps=step, **rules)
    (tmp_path / "parts" / "log.jsonl").unlink()
    rest = go(tmp_path / "parts", make_vit(), **rules)
    assert len(rest) == STEPS - step
    assert all(torch.equal(whole[-1][name], rest[-1][name]) for name in whole[-1])


def test_a_checkpoint_of_an_earlier_version_has_a_group_without_parameters(tmp_path, make_vit):
    """It had the matrices of a layer that has none."""
    go(tmp_path, make_vit(), steps=2)
    (file,) = (tmp_path / "checkpoints" / "step_00000002").glob("optimizer.pt")
    saved = torch.load(file, weights_only=True)
    saved["param_groups"].append({**saved["param_groups"][0], "params": []})
    torch.save(saved, file)
    assert len(go(tmp_path, make_vit())) == STEPS - 2


@torch.no_grad()
def test_a_start_is_the_trained_model_with_its_table_moved(make_vit, make_loud):
    """All that is new is the size."""
    trained = make_loud(make_vit(image_size=(8, 12)))
    images = torch.rand(2, 3, 8, 12)
    expected, table_LC = trained(images), trained.position_encoding.table_LC.clone()
    same, wider = make_vit(image_size=(8, 12), seed=5, drop_path=0.1), make_vit(image_size=(16, 12), seed=5)
    start_from(same, trained, "timm")
    torch.testing.assert_close(same(images), expected)
    start_from(wider, trained, "timm")
    moved_LC = resample_table(table_LC, (4, 6), (8, 6), "timm")
    torch.testing.assert_close(wider.position_encoding.table_LC, moved_LC)
    assert torch.equal(wider.position_encoding.grids_K2, torch.tensor([[8, 6]]))
    assert torch.equal(wider.blocks[0].mlp.fc1.weight, trained.blocks[0].mlp.fc1.weight)


@torch.no_grad()
def test_a_generator_goes_on_at_other_levels(make_generator, make_loud):
    """The trained generator moved by hand gives the same logits; with other classes theirs start anew."""
    levels, options = [[1, 1], [2, 2], [4, 6]], dict(encoding="learned", level_embedding="sinusoidal")
    trained = make_loud(make_generator(**options))
    model = make_generator(**options, levels=levels, seed=5)
    others = make_generator(**options, levels=levels, seed=5, num_classes=7)
    theirs = others.class_embed.weight.clone()
    start_from(model, copy.deepcopy(trained), "timm")
    start_from(others, copy.deepcopy(trained), "timm")
    trained.set_pyramid(model.pyramid, "timm")
    labels_B, inputs_BLZ = torch.tensor([0, 1]), torch.randn(2, model.pyramid.num_tokens - 1, 4)
    torch.testing.assert_close(model(labels_B, inputs_BLZ), trained(labels_B, inputs_BLZ))
    assert torch.equal(others.class_embed.weight, theirs)
    assert torch.equal(others.head.weight, trained.head.weight)


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["learned_grid", "factorized", "fourier"])
def test_what_keeps_its_grid_goes_on_with_it(make_vit, make_loud, encoding, tmp_path):
    """Nothing of these is resampled: the new model reads the trained tables at its own size, saved or not."""
    trained, images = make_loud(make_vit(encoding, image_size=(8, 12))), torch.rand(2, 3, 20, 28)
    model = make_vit(encoding, image_size=(20, 28), seed=5)
    start_from(model, copy.deepcopy(trained), "timm")
    trained.set_input_size((20, 28))
    torch.testing.assert_close(model(images), trained(images))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(ViTClassifier.from_pretrained(tmp_path)(images), trained(images))


@torch.no_grad()
def test_classes_of_other_names_keep_the_new_head(make_vit):
    """As many classes, but not the same ones."""
    model, trained = make_vit(seed=5), make_vit()
    head = model.head.weight.clone()
    start_from(model, trained, "timm", same_classes=False)
    assert torch.equal(model.head.weight, head)


def test_other_classes_keep_the_new_head(make_vit):
    """Fine-tuning on another data set starts from the features alone."""
    model, trained = make_vit(num_classes=5, seed=5), make_vit()
    head = model.head.weight.detach().clone()
    start_from(model, trained, "timm")
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.norm.weight, trained.norm.weight)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": 3}, "depth: 2 -> 3"),
        ({"encoding": "sinusoidal"}, "encoding: learned -> sinusoidal"),
        ({"patch_size": 4}, "patch_size: 2 -> 4"),
    ],
)
def test_another_model_is_refused_by_what_differs(make_vit, options, said):
    with pytest.raises(ValueError, match=f"init_from holds another model.*{said}"):
        start_from(make_vit(**options), make_vit(), "timm")


def test_an_image_of_1024_by_128_trains_under_every_encoding(make_vit, line):
    """Eight times as high as wide: whoever swaps axes, or takes grids for squares, fails here."""
    vit = make_vit(line, image_size=(128, 128), patch_size=16)
    vit.set_input_size((1024, 128), resample="timm")
    logits_BV = vit.train()(torch.rand(1, 3, 1024, 128) * 2 - 1)
    logits_BV.square().mean().backward()
    assert logits_BV.shape == (1, 3)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vit.parameters())
    with pytest.raises(ValueError, match="set to grids of 64x8, got images of 128x1024"):
        vit(torch.rand(1, 3, 128, 1024))


@pytest.mark.parametrize("encoding", ["learned + rope + peg", "relative_bias"])
def test_a_square_classifier_is_fine_tuned_at_1024_by_128(tmp_path, make_vit, encoding):
    """The whole recipe at once: tables moved, micro-batches, rates by layer, blocks that thaw."""
    model = make_vit(encoding, image_size=(1024, 128), patch_size=16, depth=1)
    start_from(model, make_vit(encoding, image_size=(128, 128), patch_size=16, depth=1, seed=5), "timm")
    start = {name: p.detach().clone() for name, p in model.named_parameters()}

    class Tall(Pictures):
        def __init__(self) -> None:
            self.images = torch.rand(16, 3, 1024, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1

    states = go(tmp_path, model, Tall(), 2, batch=2, accumulate=2, layer_decay=0.5, unfreeze_every=1)
    assert changed(start, states[0], LayerRates(1)) == {0}
    assert changed(states[0], states[1], LayerRates(1)) == {0, 1}
    assert all(value.isfinite().all() for value in states[1].values())


def a_config(folder, *more: str) -> Config:
    small = ["encoding=learned", "dim=16", "depth=1", "num_heads=2", "patch_size=8"]
    rules = ["steps=2", "batch=4", "validation_images=4", "trackers=[]"]
    lines = [f"classifier.{rule}" for rule in small] + [f"classifier_training.{rule}" for rule in rules]
    return settings.load(Config, "shapes_mixed.yaml", ["classifier={}", *lines, f"run={folder}", *more])


def test_a_run_goes_on_from_another_runs_classifier(tmp_path):
    """What a person types: a config at another size, and the run to start from."""
    shapes = ["data.shapes_train=8", "data.shapes_test=4"]
    small = train_classifier(a_config(tmp_path / "small", *shapes), Accelerator())
    more = [
        f"model.init_from={tmp_path / 'small'}",
        "classifier_training.unfreeze_every=9",
        "classifier_training.ema=0",
        "data.height=64",
        "data.width=16",
    ]
    large = train_classifier(a_config(tmp_path / "large", *shapes, *more), Accelerator())
    assert large.image_size == (64, 16)
    assert torch.equal(large.patch_embed.weight, small.patch_embed.weight)  # frozen throughout
    assert not torch.equal(large.head.weight, small.head.weight)
    moved_LC = resample_table(small.position_encoding.table_LC.detach(), (4, 4), (8, 2), "timm")
    assert torch.equal(large.position_encoding.table_LC, moved_LC)
    with pytest.raises(ValueError, match=r"holds no trained model; trained in .*small: classifier"):
        initialise_from(
            settings.load(Config, "shapes_mixed.yaml", [f"model.init_from={tmp_path / 'small'}"]),
            build_generator(settings.load(Config, "shapes_mixed.yaml"), 12),
        )
    with pytest.raises(ValueError, match="holds no trained model; train it first"):
        train_classifier(a_config(tmp_path / "third", *shapes, "model.init_from=nowhere"), Accelerator())


def test_the_plan_counts_what_is_gone_on_from(tmp_path):
    """A table that keeps its first grid is as large as it was there, whatever the new size."""
    small = a_config(tmp_path / "small", "data.shapes_train=8", "classifier.encoding=learned_grid")
    build_classifier(small, 12).save_pretrained(tmp_path / "small" / "classifier")
    more = ["data.height=64", "data.width=64", "classifier.encoding=learned_grid"]
    moved = plan(a_config(tmp_path / "large", f"model.init_from={tmp_path / 'small'}", *more))
    fresh = plan(a_config(tmp_path / "large", *more))
    assert "encoding learned_grid: 256 parameters" in moved  # 4 x 4 patches of width 16
    assert "encoding learned_grid: 1,024 parameters" in fresh


def test_a_classifier_is_asked_at_another_size_before_it_is_trained_there(tmp_path):
    """The pictures of that size, the table moved by the named convention, a record of its own."""
    config = a_config(tmp_path / "run", "data.shapes_train=8", "data.shapes_test=40")
    model = train_classifier(config, Accelerator())
    native = score_classifier(config, Accelerator())["classifier"]["values"]["top1"]
    found = score_classifier(config, Accelerator(), size=(64, 16), resample="swin")
    model.set_input_size((64, 16), "swin")
    images = held_out_images(replace(config, data=config.data.at_size(64, 16)))
    items = [images[index] for index in range(len(images))]
    guess_B = model(torch.stack([item["image"] for item in items])).argmax(1)
    right = (guess_B == torch.tensor([item["label"] for item in items])).float().mean()
    assert found["classifier/64x16/swin"]["values"]["top1"] == pytest.approx(float(right))
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert kept["classifier"]["values"]["top1"] == native
    assert set(kept) == {"classifier", "classifier/64x16/swin"}


def test_the_56_pixel_config_loads_and_differs_where_it_says(tmp_path):
    config = settings.load(Config, "fashion_vit_56.yaml")
    assert config.classifier == settings.load(Config, "fashion_vit.yaml").classifier
    assert ViTClassifier(image_size=(config.data.height, config.data.width)).pyramid.finest == (14, 14)
    with pytest.raises(ValueError, match="layer_decay must be float, above 0"):
        ClassifierTraining(layer_decay=0.0)
    with pytest.raises(ValueError, match="resample must be one of"):
        ModelStart(resample="bicubik")


def test_a_generator_of_other_codes_is_refused(tmp_path):
    """The same architecture, the same number of codes, but each means something else."""
    folders = {name: f"tokenizer_run={tmp_path / name}" for name in ("own", "other")}
    for seed, line in enumerate(folders.values()):
        config = settings.load(Config, "shapes_mixed.yaml", [line, f"tokenizer_seed={seed}"])
        build_tokenizer(config).save_pretrained(Path(config.tokenizer_run) / "tokenizer")
    source = settings.load(Config, "shapes_mixed.yaml", [folders["own"], f"run={tmp_path / 'run'}"])
    (tmp_path / "run").mkdir(exist_ok=True)
    write_text(tmp_path / "run" / "config.yaml", settings.to_yaml(source))
    build_generator(source, 12).save_pretrained(tmp_path / "run" / "generator")
    for name in folders:
        start = f"model.init_from={tmp_path / 'run'}"
        config = settings.load(Config, "shapes_mixed.yaml", [folders[name], start])
        said = pytest.raises(ValueError, match=r"was trained on the codes of .*own, not on those of .*other")
        with said if name == "other" else nullcontext():
            initialise_from(config, build_generator(config, 12))

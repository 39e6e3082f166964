"""Stages say what is wrong before they train, and load nothing that does not fit."""

import importlib
import json
import shlex
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from var_pe import settings
from var_pe.data.sampler import Draw
from var_pe.data.sources import open_source
from var_pe.files import write_text
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.sampling.pipeline import VARPipeline
from var_pe.stages import plan as planning
from var_pe.stages.config import Config, saved_config, settled_config
from var_pe.stages.draw import weights_of
from var_pe.stages.drawn_images import DrawnImages
from var_pe.stages.features import feature_extractor
from var_pe.stages.judge import end_of_generator
from var_pe.stages.models import build_classifier, build_generator, build_tokenizer, load_model, weights_hash
from var_pe.stages.plan import plan
from var_pe.stages.run_folder import SETTINGS, check_settings, remarks_on_steps
from var_pe.stages.train import check_generator, train_classifier, train_generator
from var_pe.tasks.generator import GeneratorTraining
from var_pe.training.history import History, StepsAsked
from var_pe.training.notes import TrainingNotes

SMALL = [
    "data.shapes_train=20",
    "tokenizer.channels=16",
    "tokenizer.norm_groups=8",
    "tokenizer.codebook_size=16",
    "generator.dim=32",
    "generator.depth=2",
    "generator.num_heads=2",
]


def a_config(*more):
    return settings.load(Config, "shapes_mixed.yaml", [*SMALL, *more])


def begin(folder, config):
    """A run folder as the first checkpoint leaves it."""
    write_text(folder / "config.yaml", config if isinstance(config, str) else settings.to_yaml(config))
    (folder / "checkpoints" / "step_00000001").mkdir(parents=True, exist_ok=True)


def test_a_plan_says_parameters_tokens_and_steps():
    """What a run costs should be known before it starts."""
    said = plan(a_config("generator_training.steps=7"))
    parameters = sum(p.numel() for p in build_generator(a_config(), 12).parameters())
    assert f"generator: {parameters:,} parameters; 7 steps of" in said
    assert "tokens: 30 an image (1x1: 1, 2x2: 4, 3x3: 9, 4x4: 16)" in said
    assert "acts on embed; attention is left as it is" in said


def test_a_plan_ends_with_what_the_settings_lead_to():
    """The settings fill more than a screen, so they say at once that there is something below them."""
    lines = plan(a_config()).splitlines()
    assert lines[0].startswith("# All settings")
    assert "below" in lines[0]
    assert max(number for number, line in enumerate(lines) if line.startswith("#")) > 100


@pytest.mark.parametrize(
    ("training", "images", "remarks"),
    [
        (GeneratorTraining(epochs=5, batch=64), 400, 1),
        (GeneratorTraining(epochs=80, batch=64), 400, 0),
        (GeneratorTraining(steps=32, batch=64), 400, 0),
        (GeneratorTraining(steps=32), None, 0),
    ],
)
def test_passes_over_a_small_set_that_make_few_steps_are_remarked_on(training, images, remarks):
    """The passes of a config for a large set are a few steps on a small one, which teach nothing."""
    said = remarks_on_steps(training, "generator", images)
    assert len(said) == remarks
    if said:
        assert said[0].startswith(
            "generator_training.epochs=5 over 400 images is 32 steps, which is very few"
        )


def test_waves_that_are_not_there_are_missed_before_the_training(tmp_path):
    words = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}", "sampling.remap=levels"]
    check_generator(settings.load(Config, "shapes.yaml", [*words, "generator.encoding=rope"]))
    with pytest.raises(ValueError, match=r"remap=levels slows waves of rope .* down; learned has none"):
        check_generator(settings.load(Config, "shapes.yaml", [*words, "generator.encoding=learned"]))


@pytest.mark.parametrize("name", ["guidance_schedule", "scale_guidance", "temperature"])
def test_numbers_for_levels_that_are_not_there_are_refused_before_the_training(name, tmp_path):
    """The first preview would end it."""
    folders = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}"]
    check_generator(settings.load(Config, "shapes.yaml", [*folders, f"sampling.{name}=[1, 1, 1, 1]"]))
    config = settings.load(Config, "shapes.yaml", [*folders, f"sampling.{name}=[1, 1]"])
    with pytest.raises(ValueError, match=rf"sampling\.{name} is one .*\b4\b.*, got \[1.*, 1.*\]$"):
        check_generator(config)


def test_levels_that_do_not_end_at_the_image_size_are_refused():
    """The finest grid times the downsampling factor is the image, or nothing fits."""
    with pytest.raises(ValueError, match=r"8x downsampling.* 40x40.* data.height and data.width say 32x32"):
        build_tokenizer(a_config("tokenizer.levels=[1, 2, 5]"))


def test_changed_settings_are_named(tmp_path):
    """A person who forgot an override sees which one."""
    begin(tmp_path, a_config())
    check_settings(tmp_path, a_config(), "generator")
    with pytest.raises(
        ValueError, match=r"generator.depth: 2 -> 3; seed: 0 -> 1|seed: 0 -> 1; generator.depth: 2 -> 3"
    ):
        check_settings(tmp_path, a_config("generator.depth=3", "seed=1"), "generator")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("generator.encoding=ropee", "ropee"),
        ("generator.encoding=rope(directons=spiral)", "directons"),
        ("data.height=30", r"images of 32x32, but .* say 30x32"),
        ("tokenizer.levels=[1, 2, 3]", r"images of 24x24, but .* say 32x32"),
    ],
)
def test_a_setting_that_no_model_could_have_is_named_as_such(change, said, tmp_path):
    """That it is also another one than the run's is no help: it would be refused in any folder."""
    begin(tmp_path, a_config())
    with pytest.raises(ValueError, match=said) as refused:
        check_settings(tmp_path, a_config(change), "generator")
    assert "other settings" not in str(refused.value)


def test_a_misspelled_encoding_of_a_classifier_is_named_as_such(tmp_path):
    small = ["classifier.dim=32", "classifier.num_heads=2"]
    begin(tmp_path, settings.load(Config, "shapes_vit.yaml", small))
    config = settings.load(Config, "shapes_vit.yaml", [*small, "classifier.encoding=ropee"])
    with pytest.raises(ValueError, match="ropee") as refused:
        check_settings(tmp_path, config, "classifier")
    assert "other settings" not in str(refused.value)


def test_the_same_levels_written_otherwise_are_the_same_levels(tmp_path):
    begin(tmp_path, a_config("tokenizer.levels=[[1, 1], [2, 2], [4, 4]]"))
    check_settings(tmp_path, a_config("tokenizer.levels=[1, 2, 4]"), "generator")
    with pytest.raises(ValueError, match=r"levels: \[1, 2, 4\] -> \[1, 4\]; choose"):
        check_settings(tmp_path, a_config("tokenizer.levels=[1, [4, 4]]"), "generator")


PLAIN = ("data.source=shapes", "classifier.depth=1", "classifier.encoding=learned")
OF_CLIPS = ("data.source=moving_shapes", "data.frames=4", "classifier.depth=1", "classifier.tubelet=2")


@pytest.mark.parametrize(
    ("settings_of_it", "script"),
    [
        (PLAIN, "explain"),
        ((*PLAIN, "classifier.padding=end", "data.height=18"), "explain"),
        (("data.source=shapes", "classifier.hierarchy=[convolution(blocks=1), full(blocks=1)]"), "explain"),
        (OF_CLIPS, "evaluate"),
        ((*OF_CLIPS, 'classifier.hierarchy=["windowed(blocks=1, window=2)"]'), "evaluate"),
    ],
    ids=["plain", "padded", "stages", "clips", "stages of clips"],
)
def test_a_classifier_is_followed_by_a_command_that_works(settings_of_it, script, tmp_path, monkeypatch):
    """The last line of a training is what a person types next."""
    if script == "explain":
        pytest.importorskip("pytorch_grad_cam")
    run = tmp_path / "my run"
    small = ["data.height=16", "data.width=16", "data.shapes_train=8", "data.shapes_test=4"]
    small += ["classifier={}", "classifier.patch_size=4", "classifier.dim=16", "classifier.num_heads=2"]
    config = settings.load(Config, None, [*small, *settings_of_it, f"run={run}", f"tokenizer_run={run}"])
    classes = open_source(config.data, train=True).class_names
    build_classifier(config, len(classes)).save_pretrained(run / "classifier")
    TrainingNotes(step=1, ema=True, class_names=classes).write(run / "classifier")
    write_text(run / "config.yaml", settings.to_yaml(config))

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    named = importlib.import_module("train").after_classifier(config)
    words = shlex.split(named.partition(": python ")[2])
    assert Path(words[0]).stem == script
    monkeypatch.setattr(sys, "argv", words)
    importlib.import_module(script).main()
    assert {path.name for path in run.iterdir()} & {"explanation.html", "metrics.json"}


def test_a_command_of_a_folder_with_a_space_in_its_name_can_be_typed():
    said = end_of_generator(a_config("run=runs/my run"))
    assert said.endswith("python scripts/sample.py --run 'runs/my run'")


def test_what_explains_a_classifier_is_named_where_its_library_is(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    script = importlib.import_module("train")
    config = settings.load(Config, "shapes_vit.yaml", ["run=runs/mine"])
    for there, command in (
        (True, "explain.py runs/mine"),
        (False, "evaluate.py --run runs/mine --of classifier"),
    ):
        monkeypatch.setattr(script, "has_library", lambda there=there: there)
        assert script.after_classifier(config).endswith(f"python scripts/{command}")


def test_a_trained_encoder_is_followed_by_a_command_that_can_be_run(monkeypatch, tmp_path):
    """It names a config that trains a classifier from the encoder, in a folder of its own."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    config = settings.load(Config, "fashion_pretrain.yaml", [f"run={tmp_path}/my encoder"])
    Path(config.run).mkdir()
    begin(Path(config.run), config)
    said = importlib.import_module("train").after_encoder(config).partition("from it: ")[2]
    script, flag, file, *overrides = shlex.split(said)[1:]
    assert (script, flag) == ("scripts/train.py", "--config")
    next_one = settings.load(Config, file, overrides)
    assert next_one.kind == "classifier"
    assert (next_one.model.init_from, next_one.classifier) == (config.run, config.classifier)
    assert next_one.run == f"{config.run}_classifier"


def test_another_config_in_an_existing_run_folder_is_one_sentence(tmp_path, monkeypatch, capsys):
    """A folder whose weights come from two configs belongs to neither."""
    begin(tmp_path, a_config())
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    words = [*SMALL, f"run={tmp_path}", "generator_training.batch=4"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "shapes_mixed.yaml", *words])
    with pytest.raises(SystemExit) as left:
        importlib.import_module("train").main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {tmp_path} was made with other settings: generator_training.batch: ")


def test_a_folder_in_which_nothing_was_trained_locks_nothing(tmp_path):
    """A run that was stopped before its first checkpoint leaves its config.yaml."""
    write_text(tmp_path / "config.yaml", settings.to_yaml(a_config()))
    (tmp_path / "checkpoints").mkdir()
    for kind in SETTINGS:
        check_settings(tmp_path, a_config("data.limit=5", "seed=1"), kind)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_folder_in_which_something_was_trained_locks_every_kind(kind, tmp_path):
    files = {
        "classifier": "shapes_vit.yaml",
        "encoder": "fashion_pretrain.yaml",
        "segmenter": "shapes_segmenter.yaml",
        "detector": "shapes_detector.yaml",
    }
    file = files.get(kind, "shapes_mixed.yaml")
    begin(tmp_path, settings.load(Config, file))
    with pytest.raises(ValueError, match=r"data.limit: null -> 5"):
        check_settings(tmp_path, settings.load(Config, file, ["data.limit=5"]), kind)


FREE = [
    "run=elsewhere",
    "sampling.seed=3",
    "evaluation.images=7",
    "data.shapes_test=9",
    *(
        f"{training}_training.{change}"
        for training in ("tokenizer", "generator", "classifier")
        for change in (
            "log_every=7",
            "save_every=7",
            "validate_every=7",
            "preview_every=7",
            "validation_images=7",
            "workers=1",
            "trackers=[]",
        )
    ),
]


@pytest.mark.parametrize("change", FREE)
def test_what_changes_no_weights_never_locks_a_run(change, tmp_path):
    """A person who wants to see more of a run must be able to go on with it."""
    begin(tmp_path, a_config())
    check_settings(tmp_path, a_config(change), "classifier" if change.startswith("class") else "generator")


@pytest.mark.parametrize(
    "change",
    ["generator_training.batch=8", "generator_training.ema=0.9", "data.limit=5", "tokenizer_run=other"],
)
def test_what_changes_weights_locks_a_run(change, tmp_path):
    begin(tmp_path, a_config())
    with pytest.raises(ValueError, match=change.partition("=")[0]):
        check_settings(tmp_path, a_config(change), "generator")


def test_a_limited_run_goes_on_with_the_images_it_began_with(tmp_path):
    """Runs from before `subset_seed` took the first images; another part of the set would be another set."""
    early = yaml.safe_load(settings.to_yaml(a_config("data.limit=20")))
    del early["data"]["subset_seed"]
    begin(tmp_path, yaml.safe_dump(early))
    with pytest.raises(ValueError, match=r"data.subset_seed: null -> 0; choose another folder or set them"):
        check_settings(tmp_path, a_config("data.limit=20"), "generator")
    check_settings(tmp_path, a_config("data.limit=20", "data.subset_seed=null"), "generator")

    # A run on the whole set is trained on the same images whatever the seed says.
    early["data"]["limit"] = None
    begin(tmp_path, yaml.safe_dump(early))
    for seed in ("0", "3", "null"):
        check_settings(tmp_path, a_config(f"data.subset_seed={seed}"), "generator")


def test_a_run_that_was_moved_together_with_its_tokenizer_goes_on(tmp_path, make_tokenizer):
    """It is known by its weights; another one in its place would give tokens other codes."""
    run, moved = tmp_path, tmp_path / "moved"
    make_tokenizer().save_pretrained(moved / "tokenizer")
    begin(run, a_config("tokenizer_run=as_it_was"))
    History((StepsAsked(0, 3),), 48, weights_hash(moved / "tokenizer")).write(run)
    check_settings(run, a_config(f"tokenizer_run={moved}"), "generator")

    make_tokenizer(seed=1).save_pretrained(moved / "tokenizer")
    with pytest.raises(ValueError, match="made with other settings: tokenizer_run: as_it_was -> "):
        check_settings(run, a_config(f"tokenizer_run={moved}"), "generator")


def test_a_tokenizer_from_before_the_shortcut_is_not_gone_on_with_under_one(tmp_path):
    early = yaml.safe_load(settings.to_yaml(a_config()))
    del early["tokenizer"]["shortcut"]
    begin(tmp_path, yaml.safe_dump(early))
    with pytest.raises(
        ValueError, match=r"made with other settings: tokenizer.shortcut: false -> true; choose"
    ):
        check_settings(tmp_path, a_config(), "tokenizer")
    check_settings(tmp_path, a_config("tokenizer.shortcut=false"), "tokenizer")


@pytest.mark.parametrize("kind", ["generator", "classifier"])
def test_an_old_run_stays_at_the_scale_that_it_was_trained_with(tmp_path, kind):
    """Its config.yaml says sinusoidal, which meant 1: another amplitude would spoil it silently."""
    file, train = "shapes_mixed.yaml", partial(train_generator, tokenizer=None)
    if kind == "classifier":
        file, train = "shapes_vit.yaml", train_classifier
    of_run = [f"run={tmp_path}", f"{kind}.dim=32", f"{kind}.num_heads=2"]
    old = settings.load(Config, file, [*of_run, f"{kind}.encoding=sinusoidal + peg"])
    begin(tmp_path, old)

    said = r"encoding: sinusoidal\(scale=1\) \+ peg -> sinusoidal\(scale=0.144\) \+ peg"
    with pytest.raises(ValueError, match=said):
        train(old, accelerator=Accelerator())
    same = settings.load(Config, file, [*of_run, f"{kind}.encoding=sinusoidal(scale=1) + peg"])
    check_settings(tmp_path, same, kind)
    assert saved_config(tmp_path / "config.yaml") == same


@pytest.mark.parametrize("more", ["", ", match_rms=false", ", trainable=true"])
def test_an_old_mixture_is_the_new_one(tmp_path, more):
    mixture = a_config(f"generator.encoding=mixed(learned=0.7, sinusoidal=0.3{more})")
    begin(tmp_path, mixture)
    check_settings(tmp_path, settled_config(mixture), "generator")


def test_a_plan_says_the_scale_of_a_sinusoid():
    """The resolved config is what the run will be locked to."""
    assert "encoding: sinusoidal(scale=0.144)" in plan(a_config("generator.encoding=sinusoidal"))


def test_a_folder_written_in_another_way_is_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin(tmp_path, a_config("tokenizer_run=runs/a"))
    for same in ("./runs/a/", str(tmp_path / "runs" / "a"), "runs/b/../a"):
        check_settings(tmp_path, a_config(f"tokenizer_run={same}"), "generator")


def test_a_model_folder_must_hold_what_is_asked_for(tmp_path):
    """diffusers loads another class's folder, or one without weights, and says nothing."""
    with pytest.raises(ValueError, match="holds no trained model"):
        load_model(VQTokenizer, tmp_path)
    tokenizer = build_tokenizer(a_config())
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = load_model(VQTokenizer, tmp_path / "tokenizer")
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), tokenizer.parameters(), strict=True))
    with pytest.raises(ValueError, match="holds a VQTokenizer, not a VARTransformer"):
        load_model(VARTransformer, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "blocks_per_resolution": 2}))
    with pytest.raises(ValueError, match=r"not those that its config.json describes: .* is missing"):
        load_model(VQTokenizer, tmp_path / "tokenizer")


def test_a_model_whose_training_was_stopped_is_said_to_be_unfinished(tmp_path):
    """Its folder has no model yet, and whoever looks for it has trained: that it must be trained misleads."""
    History((StepsAsked(0, 40),)).write(tmp_path)
    with pytest.raises(ValueError, match=r"holds no trained model; .* not finished \(it has no checkpoint\)"):
        load_model(VARTransformer, tmp_path / "generator")

    for step in (2, 4):
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"last checkpoint is of step 4 of 40\): to go on, run the scripts/train"
    ):
        load_model(VARTransformer, tmp_path / "generator")


@pytest.mark.parametrize("file", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_damaged_file_of_a_model_is_named(file, tmp_path):
    build_tokenizer(a_config()).save_pretrained(tmp_path)
    whole = (tmp_path / file).read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{tmp_path / file} is not"):
            load_model(VQTokenizer, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} (holds no trained model|has no weights)"):
        load_model(VQTokenizer, tmp_path)


def test_another_weight_is_another_hash():
    """The hash ties a folder of images to the weights that drew them."""
    tokenizer, transformer = build_tokenizer(a_config()), build_generator(a_config(), 12)
    pipeline = VARPipeline(tokenizer, transformer)
    before = weights_of(pipeline)
    assert weights_of(pipeline) == before
    pipeline.transformer.register_to_config(encoding="rope(remap=levels, trained=(4, 4))")
    assert weights_of(pipeline) != before
    pipeline.transformer.register_to_config(encoding="learned")
    with torch.no_grad():
        transformer.head.bias[0] += 1
    assert weights_of(pipeline) != before


def test_drawn_images_train_a_classifier_by_their_folders_names(tmp_path):
    """A classifier trained on drawn images tells whether they carry their class."""
    for label, level in ((3, 0), (5, 255)):
        folder = tmp_path / "images" / f"{label:04d}"
        folder.mkdir(parents=True)
        Image.new("L", (8, 8), level).save(folder / "0000000.png")
    images = DrawnImages(tmp_path)
    items = [images[Draw(0, index, 9)] for index in range(len(images))]
    assert [item["label"] for item in items] == [3, 5]
    assert [float(item["image"].mean()) for item in items] == [-1.0, 1.0]
    (tmp_path / "images" / "0003").rename(tmp_path / "images" / "shoes")
    with pytest.raises(ValueError, match="folders are not named after classes or their numbers"):
        DrawnImages(tmp_path)
    with pytest.raises(ValueError, match=r"classifier_training.drawn_images=/nope: /nope is neither"):
        plan(settings.load(Config, "shapes_vit.yaml", ["classifier_training.drawn_images=/nope"]))


def test_a_plan_counts_the_drawn_images_that_a_classifier_trains_on(tmp_path):
    """Epochs are of what is trained on, not of the split that it replaces."""
    (tmp_path / "0003").mkdir()
    for number in range(2):
        Image.new("L", (8, 8)).save(tmp_path / "0003" / f"{number}.png")
    training = ["classifier_training.epochs=32", "classifier_training.batch=2"]
    drawn = f"classifier_training.drawn_images={tmp_path}"
    said = plan(settings.load(Config, "shapes_vit.yaml", [*training, drawn]))
    assert f"data: 2 training images, 12 classes, drawn ones in {tmp_path}" in said
    assert "32 steps of 2 images, 32 epochs" in said


def test_a_plan_says_where_it_writes(tmp_path):
    """The tokenizer is shared by runs, so it lies in none of them."""
    where = f"tokenizer_run={tmp_path}"
    assert f"which runs share, is trained first, in {tmp_path}" in plan(a_config(where))
    (tmp_path / "tokenizer").mkdir()
    assert f"which runs share, is there and is taken, in {tmp_path}" in plan(a_config(where))


def test_a_known_set_that_is_not_here_is_planned_as_published(monkeypatch):
    """What a run costs is asked before its data are fetched; a wrong path of one's own stays an error."""

    def missing(data, train):
        raise ValueError("it is not here")

    monkeypatch.setattr(planning, "open_source", missing)
    said = plan(a_config("data.source=cifar100", "generator_training.steps=7"))
    assert "data: 50000 training images, 100 classes as published, not counted: it is not here" in said
    assert "data: 30 training images, 100 classes as" in plan(
        a_config("data.source=cifar100", "data.limit=30")
    )
    for own in (["data.source=cifar100", "data.path=/nope"], ["data.source=shapes"]):
        with pytest.raises(ValueError, match="it is not here"):
            plan(a_config(*own))


@pytest.mark.parametrize(
    ("config", "stage", "sentence"),
    [
        (
            "shapes_learned",
            "classifier",
            "needs a config with the section classifier, as in fashion_vit",
        ),
        ("shapes_vit", "generator", "has the section classifier, so only its classifier can be trained"),
        ("shapes_vit", "segmenter", "needs a config with the section segmenter, as in shapes_segmenter.yaml"),
        ("shapes_detector", "classifier", "has the section detector, so only its detector can be trained"),
        ("shapes_vit", "tokenizer", "has the section classifier, so only its classifier can be trained"),
    ],
)
def test_a_stage_that_the_config_does_not_have_is_refused(config, stage, sentence, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", config, "--stage", stage, "--dry-run"])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("train").main()
    assert f"--stage {stage}" in (said := capsys.readouterr().err)
    assert sentence in said


def test_unknown_features_are_refused_in_one_sentence():
    """A mistyped run folder must not end in a stack trace."""
    with pytest.raises(
        ValueError, match=r"inception, efficientnet_lite0, .* or the folder of a classifier's run"
    ):
        feature_extractor("runs/nowhere")


def test_initial_weights_do_not_depend_on_the_encoding():
    """Two encodings are compared around the same network, or something else is compared as well."""
    first, second = (
        build_generator(a_config(f"generator.encoding={line}"), 12).state_dict()
        for line in ("learned", "sinusoidal + learned(init=xavier)")
    )
    common = [name for name in first if not name.startswith("position_encoding")]
    assert len(common) > 20
    assert all(torch.equal(first[name], second[name]) for name in common)


def test_a_stem_of_convolutions_gives_the_grid_of_plain_patches():
    """Everything behind the stem is the same, on rectangles too."""
    images_BCHW = torch.randn(2, 1, 16, 24)
    for stem in ("patch", "convolutions"):
        model = ViTClassifier((16, 24), 1, stem=stem, dim=16, depth=1, num_heads=2)
        assert model.patch_embed(images_BCHW).shape == (2, 16, 4, 6)
        assert model(images_BCHW).shape == (2, 10)
    with pytest.raises(ValueError, match="needs patch_size 2, 4, 8"):
        ViTClassifier((15, 15), 1, stem="convolutions", patch_size=3, dim=16, num_heads=2)
    with pytest.raises(ValueError, match="stem is one of"):
        ViTClassifier(stem="resnet")


def test_a_setting_younger_than_a_run_counts_as_its_default(tmp_path):
    """An update of the program must not lock people out of the runs that they have."""
    config = a_config()
    begin(tmp_path, config)
    tree = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del tree["generator_training"]["label_drop"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    check_settings(tmp_path, config, "generator")
    with pytest.raises(ValueError, match=r"generator_training.label_drop: 0.1 -> 0.25"):
        check_settings(tmp_path, a_config("generator_training.label_drop=0.25"), "generator")

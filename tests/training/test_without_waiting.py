"""Between two logs no training step waits for its device: it reads nothing back.

On a processor, whatever would make a GPU wait is refused as it is called; on a GPU, torch itself refuses it:

    pytest -m cuda tests/training/test_without_waiting.py
"""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from var_pe.data.images import ImageDataset
from var_pe.data.sources import DataConfig, open_source
from var_pe.data.token_cache import TokenDataset, build_token_cache
from var_pe.models.discriminators import PatchDiscriminator
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid
from var_pe.sampling.config import SamplingConfig
from var_pe.tasks.classifier import ClassifierTask, ClassifierTraining
from var_pe.tasks.codebook import RestartConfig
from var_pe.tasks.generator import GeneratorTask, GeneratorTraining
from var_pe.tasks.losses.adversarial import AdversarialConfig
from var_pe.tasks.losses.contrastive import Contrastive
from var_pe.tasks.progressive import Progressive
from var_pe.tasks.pyramids import one_of
from var_pe.tasks.redrawn import RedrawnConfig
from var_pe.tasks.tokenizer import TokenizerTask, TokenizerTraining
from var_pe.training.history import History, StepsAsked
from var_pe.training.loop import train
from var_pe.training.run import Run

# Operations whose result, or its shape, the host has to wait for
WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "bincount", "masked_select", "equal", "_unique2")
# The first step that is watched: both pyramids have been met by then, whose positions stay on the device.
FIRST = 4
STEPS = 10
ON_EVERY_DEVICE = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]

LEVELS = [Pyramid.square(1, 2, 4), Pyramid.square(1, 3, 4)]
DATA = DataConfig(shapes_train=24, height=16, width=16, framing="crop", flip=True)
RULES = dict(
    batch=8, accumulate=2, log_every=100, save_every=100, validate_every=0, preview_every=0, trackers=[]
)


class NothingIsRead(TorchDispatchMode):
    """Refuses every operation that a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        picks = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if picks or name in WAITING:
            raise AssertionError(f"{func} would wait for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def torch_refuses_to_wait():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def without_waiting(task_class, device):
    """The task; nothing may be waited for from its step `FIRST` to its last one, which is logged."""

    class Watched(task_class):
        is_watched = False
        watch = ExitStack()

        def loss(self, model, batch, step):
            if step == FIRST and not self.is_watched:
                self.is_watched = True
                self.watch.enter_context(torch_refuses_to_wait() if device == "cuda" else NothingIsRead())
            if step == STEPS - 1:
                self.watch.close()
            return super().loss(model, batch, step)

    return Watched


def go(folder, task, config, device):
    run = Run(folder, Accelerator(cpu=device == "cpu"))
    try:
        train(task, config, run, History((StepsAsked(0, STEPS),)), seed=0)
    finally:
        task.watch.close()
        run.release()


def pictures(**options):
    return ImageDataset(open_source(DATA, train=True), DATA, train=True, seed=0, **options)


def a_tokenizer(**options):
    shape = dict(codebook_size=32, latent_channels=8, channels=8, norm_groups=4, attention=False, seed=0)
    return VQTokenizer(levels=(1, 2, 4), image_channels=3, channel_multipliers=(1, 1, 1), **(shape | options))


@pytest.fixture(autouse=True)
def _has_device(request):
    if request.node.callspec.params["device"] == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")


@pytest.mark.parametrize("device", ON_EVERY_DEVICE)
@pytest.mark.parametrize(
    "quantizer",
    [
        "vq",
        "vq(learning=ema)",
        "vq(rate=0.1, given=coarser)",
        "cosine",
        "simvq",
        "fsq(levels=[5, 4, 3])",
        "bsq(bits=5)",
    ],
)
def test_a_tokenizer_step_does_not_wait(tmp_path, quantizer, device):
    """With restarts of codes, an opponent, two pyramids, levels left out and, where that can be, tokens that
    are drawn anew; images are made when needed."""
    restart = RestartConfig(every=2, until=1.0, below=0.9, memory=2)
    game = AdversarialConfig(weight=0.5, start=0.0, lecam=0.1, augment=["color", "translation", "cutout"])
    redrawn = RedrawnConfig(share=0.6 if "coarser" in quantizer else 0.0, start=0.0)
    config = TokenizerTraining(
        **RULES, restart=restart, adversarial=game, quantizer_dropout=0.5, redrawn=redrawn
    )
    dataset = one_of([pictures(), pictures()], config.batch, seed=0)
    box = (0, 0, 16, 16)
    held_out = {pyramid: (pictures(), box) for pyramid in LEVELS}
    task = without_waiting(TokenizerTask, device)(
        a_tokenizer(quantizer=quantizer),
        dataset,
        LEVELS,
        held_out,
        config,
        steps=STEPS,
        seed=0,
        discriminator=PatchDiscriminator(3, 8, 1, spectral=True, seed=0),
    )
    go(tmp_path, task, config, device)


@pytest.mark.parametrize("device", ON_EVERY_DEVICE)
@pytest.mark.parametrize("cached", [True, False])
def test_a_generator_step_does_not_wait(tmp_path, cached, device):
    """From a cache of tokens or encoded as needed: labels are dropped, levels compared, the last one comes in
    late; by either optimizer."""
    tokenizer = a_tokenizer().eval().to(device)
    config = GeneratorTraining(
        **RULES,
        label_drop=0.3,
        optimizer="muon" if cached else "adamw",
        contrastive=Contrastive(),
        progressive=Progressive(first=2, until=0.7),
    )
    sets = []
    for pyramid in LEVELS:
        folder = build_token_cache(
            tmp_path / "tokens",
            pictures(),
            lambda images, pyramid=pyramid: tokenizer.encode(images.to(device), pyramid),
            key={"levels": str(pyramid)},
            vocabulary=32,
            views=1,
        )
        sets.append(TokenDataset(folder) if cached else pictures())

    tokens_NL = torch.zeros(2, LEVELS[0].num_tokens, dtype=torch.int64)
    task = without_waiting(GeneratorTask, device)(
        VARTransformer(
            levels=(1, 2, 4),
            codebook_size=32,
            latent_channels=8,
            num_classes=12,
            dim=16,
            depth=2,
            num_heads=2,
            encoding="learned(resample=timm) + relative_bias(resample=swin, spatial_scale=true) + peg",
            dropout=0.1,
            drop_path=0.1,
        ),
        tokenizer,
        one_of(sets, config.batch, seed=0),
        LEVELS,
        {LEVELS[0]: (tokens_NL, torch.zeros(2, dtype=torch.int64))},
        config,
        SamplingConfig(),
        steps=STEPS,
        seed=0,
    )
    go(tmp_path / "run", task, config, device)


@pytest.mark.parametrize("device", ON_EVERY_DEVICE)
def test_a_classifier_step_does_not_wait(tmp_path, device):
    """With layers that are frozen at first; mixup, whose checks wait on processors alone, on a GPU."""
    config = ClassifierTraining(**RULES, unfreeze_every=3, mixup=0.0 if device == "cpu" else 0.5)
    model = ViTClassifier(
        image_size=(16, 16),
        num_classes=12,
        patch_size=4,
        dim=16,
        depth=2,
        num_heads=2,
        encoding="learned + rope",
    )
    task = without_waiting(ClassifierTask, device)(model, pictures(), pictures(), config)
    go(tmp_path, task, config, device)

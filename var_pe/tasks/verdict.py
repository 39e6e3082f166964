"""Whether a tokenizer is fully trained: a rule from its measurements to a verdict and advice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from var_pe.pages.numbers import plain
from var_pe.progress import number_of
from var_pe.tasks.examination import Examination

# All in dB
NOTHING_LEARNED = 0.5  # above the mean picture: the tokens say nothing of a picture
LITTLE_LEARNED = 3.0  # the same, with rounding or without, whichever is better: it has only begun
STILL_GROWING = 0.5  # in the last doubling of the steps
ROUNDING_MATTERS = 1.0  # lost by rounding
CODES_MATTER = 0.3  # lost with half of the codes
LEVEL_IS_IDLE = 0.05  # lost without a level
# PSNR below which details are lost: the root of the mean squared error is more than 14 of 255 levels
DETAILS_ARE_LOST = 25.0

FEW_PASSES = 4  # passes over the images: below, what looks like a collapse may be the beginning
FEW_CODES = 1 / 16  # perplexity over the number of codes: below, the codebook has collapsed
UNUSED = 0.1  # share of codes that no test image uses, above which they are mentioned


@dataclass(frozen=True)
class Distance:
    """How far reconstructions are from other test images, and how far real images are from them."""

    # Frechet distances
    reconstructions: float
    real: float
    # images on either side
    count: int
    # of the extractor
    features: str


@dataclass(frozen=True)
class Facts:
    """The measurements and settings that a verdict rests on."""

    examination: Examination
    # grids from coarse to fine, as a person writes them
    levels: list[str]
    tokens: int
    codebook_size: int
    # what to set for twice as many codes
    doubled: str
    # codes that some test image uses
    codes_used: int
    # over all levels
    perplexity: float
    # bits in an image's tokens, at the frequencies of the codes in each level
    bits: float
    steps: int
    # over the training images; None for a stream
    passes: float | None
    # dB in the last doubling of the steps; None if the log is too short
    gain: float | None
    # what that is the slope of: validations | training batches
    gain_of: str
    # folder of the sheets that show originals above reconstructions; None if there are none
    sheets: str | None
    # None if it was not measured
    distance: Distance | None

    # Settings that can be the cause of a collapse
    learning_rate: float
    commitment: float
    restarts: bool
    # whether there are rows that can be restarted
    has_codebook: bool
    # price of a nat of a token (`vq(rate=...)`), for which few codes in use are what was asked for; 0: none
    rate: float
    reconstruction_weight: float


@dataclass(frozen=True)
class Verdict:
    """One paragraph: what the tokenizer is, why, and what to change."""

    # finished | unfinished | collapsed
    name: str
    # sentences
    reasons: list[str]
    # what to change, the most useful first; never empty
    advice: list[str]

    def __str__(self) -> str:
        reasons = " ".join(self.reasons)
        return f"The tokenizer is {self.name}. {reasons} What to change: {'; '.join(self.advice)}."


def verdict(facts: Facts) -> Verdict:
    """The verdict and what to change.

    Collapsed: its tokens tell no more of a picture than the mean of all pictures does, or details are lost
    and it uses hardly any of its codes though they have no price. Unfinished: its PSNR still grew in the last
    doubling of the steps, or there is no curve yet and it has not even seen all images once, or it has
    learned little with rounding and without. Finished: neither, so what is left to gain lies in its size.
    That says nothing of how much a picture keeps, which is said beside it.
    """
    found = facts.examination
    # Where few codes keep every detail, the pictures needed no more.
    details_are_lost = found.whole < DETAILS_ARE_LOST
    hardly_any = facts.perplexity < max(2.0, FEW_CODES * facts.codebook_size)
    few_codes = hardly_any and details_are_lost and not facts.rate
    nothing_learned = found.whole < found.mean_picture + NOTHING_LEARNED
    growing = facts.gain is not None and facts.gain > STILL_GROWING
    little_learned = best(found) < found.mean_picture + LITTLE_LEARNED
    # With the shortcut even an untrained one is above the mean picture.
    little_seen = facts.gain is None and facts.passes is not None and facts.passes < 1

    # In its first steps every tokenizer is worse than the mean picture: one that still gains is not lost.
    if few_codes or (nothing_learned and not growing):
        return Verdict("collapsed", [quality(facts), codes(facts)], against_collapse(facts))

    reasons = [quality(facts), growth(facts), rounding(facts), codes(facts), level_shares(facts)]
    if little_learned and not growing:
        reasons[1] = begun(facts)
    if facts.distance is not None:
        reasons.append(distance(facts.distance))
    else:
        reasons.append("The distance of its reconstructions from real images was not measured.")

    if growing or little_learned or little_seen:
        steps = (2 if growing and not little_learned else 10) * facts.steps
        more = f"more steps (tokenizer_training.steps={steps} or more)"
        # Which codes and levels it does without is not settled before it is trained out.
        return Verdict("unfinished", reasons, [more])
    reasons[1:1] = details(facts)
    return Verdict("finished", reasons, [*bottleneck(facts), *superfluous(facts)])


def best(found: Examination) -> float:
    """The PSNR with rounding or, mostly, without; a decoder may have learned to need rounded codes."""
    return max(found.whole, found.unrounded)


# ------------------------------------------------------------------------------------------- reasons


def quality(facts: Facts) -> str:
    found = facts.examination
    return (
        f"PSNR {found.whole:.2f} dB on {found.num_images} test images, where the mean picture alone has "
        f"{found.mean_picture:.2f} dB."
    )


def details(facts: Facts) -> list[str]:
    """What a finished tokenizer loses, which more steps would not bring back."""
    found = facts.examination
    error = 255 * 10 ** (-found.whole / 20)
    if found.whole >= DETAILS_ARE_LOST:
        return []
    look = "" if facts.sheets is None else f": look at the last sheet in {facts.sheets}"
    return [
        f"Finished is not good: its reconstructions are off by {error:.0f} of 255 levels (root mean square), "
        f"so details of the pictures are lost, and drawn images will lack them{look}."
    ]


def growth(facts: Facts) -> str:
    """What more steps would likely give."""
    passes = "" if facts.passes is None else f", {facts.passes:.2g} passes over the images"
    trained = f"It was trained for {number_of(facts.steps, 'step')}{passes}"
    if facts.gain is None:
        return f"{trained}; its log is too short to say what more steps would give."

    changed = f"PSNR of {facts.gain_of} changed by {facts.gain:+.2f} dB"
    said = f"{trained}; in the last doubling of the steps {changed}"
    if facts.gain > 0:
        return f"{said}, so twice as many would likely give about {facts.gain:.1g} dB more."
    return f"{said}, so more would likely give nothing."


def begun(facts: Facts) -> str:
    """The reason for one that has only begun; its curve is flat as its learning rate has come to its end."""
    found = facts.examination
    passes = "" if facts.passes is None else f", {facts.passes:.2g} passes over the images"
    above = best(found) - found.mean_picture
    even = "even without rounding it" if found.unrounded > found.whole else "it"
    return (
        f"It was trained for {number_of(facts.steps, 'step')}{passes}; {even} is only {above:.1f} dB "
        "above the mean picture, so it has only begun, and its curve does not say yet what more steps would "
        "give."
    )


def rounding(facts: Facts) -> str:
    """What more codes would likely give."""
    found = facts.examination
    lost = found.unrounded - found.whole
    half = found.whole - found.half_codes
    most = max(0.0, min(lost, half))
    if lost <= 0:
        return (
            f"Rounding to codes costs nothing: without it PSNR is {found.unrounded:.2f} dB, which is no "
            "better, as the decoder was trained on codes. So the autoencoder is the limit, not the codes."
        )
    return (
        f"Rounding to codes costs {lost:.2f} dB (without it {found.unrounded:.2f} dB); without the less used "
        f"half of the codes it has {half:.2f} dB less, so twice as many would likely give at most {most:.2f} "
        "dB."
    )


def codes(facts: Facts) -> str:
    most = facts.tokens * math.log2(facts.codebook_size)
    price = f" (few, because codes have a price: rate={facts.rate:g})" if facts.rate else ""
    return (
        f"{facts.codes_used} of {facts.codebook_size} codes occur, as if {facts.perplexity:.0f} were used "
        f"equally often{price}; an image's {facts.tokens} tokens carry {facts.bits:.0f} of at most "
        f"{most:.0f} bits."
    )


def level_shares(facts: Facts) -> str:
    """What each level brings."""
    whole = facts.examination.whole
    shares = []
    for grid, without in zip(facts.levels, facts.examination.without_level, strict=True):
        shares.append(f"{grid} {whole - without:.2f}")
    return f"Without a level it loses (dB): {', '.join(shares)}."


def distance(found: Distance) -> str:
    ratio = f", {found.reconstructions / found.real:.1f} times as far" if found.real > 0 else ""
    return (
        f"Its reconstructions are at {plain(found.reconstructions)} from other test images, real images at "
        f"{plain(found.real)}{ratio} (Frechet distance, {found.features}, {found.count} images on either "
        "side); drawn images cannot be expected to come closer than reconstructions."
    )


# ------------------------------------------------------------------------------------------- advice


def against_collapse(facts: Facts) -> list[str]:
    """Advice on settings that make a codebook collapse; a lower learning rate in any case."""
    advice = []
    if not facts.reconstruction_weight:
        advice.append("give the reconstruction a weight (tokenizer_training.l1=1 and l2=1; both are 0)")
    if facts.has_codebook and not facts.restarts:
        advice.append("let unused codes start again (tokenizer_training.restart.every=25)")
    if facts.commitment > 1:
        advice.append(f"lower tokenizer.commitment (0.25; it is {facts.commitment:g})")
    advice.append(
        f"a lower learning rate (tokenizer_training.learning_rate={facts.learning_rate / 3:.1g}; "
        f"it is {facts.learning_rate:g})"
    )
    if facts.passes is not None and facts.passes < FEW_PASSES:
        steps = f"tokenizer_training.steps={10 * facts.steps}"
        advice.append(
            f"if it has only begun ({facts.passes:.2g} passes over the images), more steps ({steps})"
        )
    return advice


def bottleneck(facts: Facts) -> list[str]:
    """Advice on what limits a fully trained tokenizer: codes, tokens per image, or the autoencoder."""
    found = facts.examination
    if found.unrounded - found.whole < ROUNDING_MATTERS:
        return ["for more, a wider autoencoder (tokenizer.channels, blocks_per_resolution, latent_channels)"]

    more_tokens = "more tokens (a further or finer level in tokenizer.levels)"
    if found.whole - found.half_codes > CODES_MATTER:
        doubled = f"more codes ({facts.doubled})"
        return [f"for more, {doubled} or {more_tokens}"]
    return [f"for more, {more_tokens} rather than more codes"]


def superfluous(facts: Facts) -> list[str]:
    """Advice on codes and levels that could be left out."""
    advice = []
    unused = facts.codebook_size - facts.codes_used
    if unused > UNUSED * facts.codebook_size:
        instead = "fewer would do"
        if facts.has_codebook:
            instead = (
                "restart them for longer (tokenizer_training.restart.until) or take a smaller "
                "tokenizer.codebook_size"
            )
        advice.append(f"{unused} codes are never used: {instead}")

    for grid, loss in zip(facts.levels, losses(facts), strict=True):
        if loss < LEVEL_IS_IDLE and len(facts.levels) > 1:
            advice.append(f"level {grid} changes nothing: it can be left out of tokenizer.levels")
    return advice


def losses(facts: Facts) -> list[float]:
    """What is lost without each level, in dB."""
    return [facts.examination.whole - without for without in facts.examination.without_level]


# ------------------------------------------------------------------------------------------- from a log


def gain_of_last_doubling(steps: Sequence[float], decibels: Sequence[float]) -> float | None:
    """The slope of PSNR against log2 of the step over the second half of a training, in dB a doubling.

    By least squares, which noise moves less than the difference of two values; None with fewer than three
    values there.
    """
    last = max(steps, default=0)
    late = [
        (math.log2(step), value)
        for step, value in zip(steps, decibels, strict=True)
        if step >= last / 2 and step > 0
    ]
    if len(late) < 3:
        return None

    middle = sum(step for step, _ in late) / len(late)
    mean = sum(value for _, value in late) / len(late)
    spread = sum((step - middle) ** 2 for step, _ in late)
    return sum((step - middle) * (value - mean) for step, value in late) / spread

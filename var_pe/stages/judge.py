"""Whether a run's tokenizer is fully trained, and what it loses: measured, and said in one paragraph."""

import math
import shlex
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from accelerate import Accelerator

from var_pe.data.part import drawn
from var_pe.data.sources import open_source
from var_pe.evaluation.efficientnet_lite import EfficientNetLiteFeatures
from var_pe.evaluation.metrics import halves, scores
from var_pe.files import KeptResults, write_text
from var_pe.models.efficientnet_lite import VARIANTS
from var_pe.models.quantizers.codebook import LearnedCodebook
from var_pe.models.quantizers.vq import VQ
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.stages.config import Config
from var_pe.stages.features import described, trained_against
from var_pe.stages.images import RealImages, Reconstructions, picture_box
from var_pe.stages.models import weights_hash
from var_pe.tasks.codebook import bits, perplexity
from var_pe.tasks.examination import examine
from var_pe.tasks.overfitting import at_its_end
from var_pe.tasks.tokenizer_quality import measure_tokenizer
from var_pe.tasks.verdict import Distance, Facts, Verdict, gain_of_last_doubling, verdict
from var_pe.training.log import LogEntry, read_log

RULE = 7  # raised when the same facts get another verdict or other words
EXAMINED = 256  # test images, drawn over the whole split
# A later one for tokenizers that were trained against those before; their weights come with packages
JUDGES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def judge_tokenizer(config: Config, tokenizer: VQTokenizer, accelerator: Accelerator) -> Verdict:
    """The verdict on the finished tokenizer, also written to verdict.txt and verdict.json of its folder.

    A verdict that is there already is used as long as weights, data and log are the same.
    """
    folder = Path(config.tokenizer_run)
    rests_on = {
        "weights": weights_hash(folder / "tokenizer"),
        "data": config.data.record(),
        "steps": last_step(log_of(folder)),
        "features": name_of_judge(config),
        "rule": RULE,
    }
    kept = KeptResults[list[str]](folder / "verdict.json", {"asked": rests_on}, "found")
    if kept.results:
        (name,) = kept.results["verdict"]
        return Verdict(name, kept.results["reasons"], kept.results["advice"])

    processes = Processes.of(accelerator)
    processes.say("judging the tokenizer: what its codes and its levels lose")
    found = verdict(facts_of(config, tokenizer.to(accelerator.device), accelerator))

    def write() -> None:
        kept.add({"verdict": [found.name], "reasons": found.reasons, "advice": found.advice})
        write_text(folder / "verdict.txt", f"{found}\n")

    processes.on_main(write)
    return found


def end_of_generator(config: Config) -> str:
    """What the log of the run's generator says of its end, and the command that comes next."""
    said = at_its_end(log_of(Path(config.run)))
    following = f"to draw images: python scripts/sample.py --run {shlex.quote(config.run)}"
    return f"{said}\n{following}" if said else following


def facts_of(config: Config, tokenizer: VQTokenizer, accelerator: Accelerator) -> Facts:
    """All that the verdict rests on, under the tokenizer's own levels."""
    processes = Processes.of(accelerator)
    real, box = RealImages(config, train=False), picture_box(config)
    some = real.part(drawn(len(real), EXAMINED, config.data.subset_seed))

    # The codes that these images use, and the bits in them
    pyramid, quantizer = tokenizer.pyramid, tokenizer.quantizer
    hits_KV = measure_tokenizer(tokenizer, {pyramid: (some.images, box)}, accelerator)[pyramid].hits_KV
    each_level = [float(perplexity(hits_V)) for hits_V in hits_KV]

    log = log_of(Path(config.tokenizer_run))
    training = config.tokenizer_training
    steps = last_step(log)
    gain, gain_of = gain_in(log)
    sheets = Path(config.tokenizer_run) / "samples"
    passes = None
    if not config.data.streaming:
        passes = steps * training.batch / len(open_source(config.data, train=True))

    return Facts(
        examination=examine(tokenizer, some.images, box, range(len(some)), processes),
        levels=[f"{height}x{width}" for height, width in pyramid.grids],
        tokens=pyramid.num_tokens,
        codebook_size=quantizer.num_codes,
        doubled=quantizer.doubled,
        codes_used=int((hits_KV.sum(0) > 0).sum()),
        perplexity=float(perplexity(hits_KV.sum(0))),
        bits=bits(each_level, pyramid),
        steps=steps,
        passes=passes,
        gain=gain,
        gain_of=gain_of,
        sheets=str(sheets) if sheets.is_dir() else None,
        distance=distance_of(some, tokenizer, name_of_judge(config), accelerator),
        learning_rate=training.learning_rate,
        commitment=quantizer.commitment,
        restarts=training.restart.every > 0,
        has_codebook=isinstance(quantizer, LearnedCodebook),
        rate=quantizer.rate if isinstance(quantizer, VQ) else 0.0,
        reconstruction_weight=training.l1 + training.l2,
    )


def name_of_judge(config: Config) -> str | None:
    """The network that distances are taken with; None if its weights are not here, or none is left."""
    name = next((name for name in JUDGES if not trained_against(config, name)), None)
    return name if name and find_spec(VARIANTS[name].weights_package) else None


def distance_of(
    images: RealImages, tokenizer: VQTokenizer, judge: str | None, accelerator: Accelerator
) -> Distance | None:
    """Reconstructions of one half against the other half's images; None where it cannot be measured."""
    count = len(images) // 2
    if judge is None or count < 2:
        return None

    extractor = EfficientNetLiteFeatures(judge)
    first, second = halves(described(extractor, images, accelerator), count)
    rebuilt = halves(described(extractor, Reconstructions(images, tokenizer), accelerator), count)[0]

    # So few images count for the comparison of the two distances alone, which the sentence says.
    with warnings.catch_warnings(action="ignore"):
        distances = [
            scores(ours, second, extractor=extractor, metrics=["frechet"]) for ours in (rebuilt, first)
        ]
    theirs, real = (next(iter(found.values())) for found in distances)
    return Distance(theirs, real, count, f"EfficientNet-Lite{judge[-1]}")


def log_of(folder: Path) -> list[LogEntry]:
    """The log of a run's training; none of a tokenizer that was not trained here."""
    path = folder / "log.jsonl"
    return read_log(path) if path.exists() else []


def last_step(log: Sequence[LogEntry]) -> int:
    return int(max((entry["step"] for entry in log), default=0))


def gain_in(log: Sequence[LogEntry]) -> tuple[float | None, str]:
    """What the last doubling of the steps brought, in dB, and whose PSNR that is.

    It is the PSNR of validations or, where they are too few, of training batches.
    """
    validated = [entry for entry in log if "validation/psnr" in entry]
    found = gain_of_last_doubling(
        [entry["step"] for entry in validated], [entry["validation/psnr"] for entry in validated]
    )
    if found is not None:
        return found, "validations"

    # Of images in [-1, 1], whose peak is 2
    trained = [entry for entry in log if entry.get("l2", 0) > 0]
    decibels = [-10 * math.log10(entry["l2"] / 4) for entry in trained]
    return gain_of_last_doubling([entry["step"] for entry in trained], decibels), "training batches"

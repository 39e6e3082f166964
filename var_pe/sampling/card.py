"""The model card of a saved pipeline, written from its run's own settings and scores."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import create_repo
from torch import nn

from var_pe.data.sources import DataConfig
from var_pe.files import write_text
from var_pe.pages.tables import markdown_table
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.saved import CARD, upload

TAGS = ("diffusers", "var_pe", "next-scale-prediction", "class-conditional-image-generation")

Json = Mapping[str, Any]  # of config.yaml and metrics.json, as they are read

# The settings that a card shows
SHOWN = ("seed", "tokenizer_seed", "tokenizer", "tokenizer_training", "generator", "generator_training")
# Of the data these, and all others that are not as by default: which pictures were trained on must show.
DATA = ("source", "hub_id", "height", "width", "channels", "framing", "random_crop", "flip")
# Where the pictures lie and how they are read, which is nobody else's business
OF_THE_MACHINE = ("path", "in_memory", "shuffle_buffer")

# scores whose names are not plain words
WORDS = {
    "frechet_distance": "Frechet distance",
    "inception_score": "Inception score",
    "kid": "KID",
}


def save_with_card(
    pipeline: VARPipeline,
    folder: Path,
    config: Json,
    metrics: Json,
    name: str | None = None,
) -> None:
    """Saves the pipeline's folder with a card of the run whose `config` and `metrics` these are.

    `name` (default: the folder's) is where others will find it. A pipeline that was loaded with a card keeps
    that one.
    """
    pipeline.save_pretrained(folder)
    if pipeline.card is None:
        card = model_card(name or folder.name, pipeline, config, metrics)
        write_text(folder / CARD, card)


def publish(folder: Path, name: str) -> str:
    """Uploads a saved pipeline to the hub's repository `name`, made if need be: its address.

    Raises:
        ValueError: the hub cannot be reached, does not know who asks, or refuses; the folder stays.
    """
    try:
        address = create_repo(name, exist_ok=True)
        upload(folder, address.repo_id)
    except Exception as error:  # of whatever library the hub's client speaks through
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{folder} is saved, but was not uploaded to {name}: {reason}") from error
    return str(address)


def model_card(name: str, pipeline: VARPipeline, config: Json, metrics: Json) -> str:
    """Markdown; `config` is a run's config.yaml and `metrics` its metrics.json, either may be empty.

    Every score names the features it looks at; FID is what Inception's Frechet distance alone is called.
    """
    header = yaml.safe_dump({"library_name": "diffusers", "tags": list(TAGS)}, sort_keys=False)
    parts = [f"---\n{header}---", f"# {name}", _summary(pipeline, config), _usage(name, pipeline)]
    parts += ["## Scores", *_scores(metrics)]

    settings = _settings(config)
    if settings:
        parts += ["## Settings", "```yaml\n" + yaml.safe_dump(settings, sort_keys=False) + "```"]
    return "\n\n".join(parts) + "\n"


def _summary(pipeline: VARPipeline, config: Json) -> str:
    transformer, tokenizer = pipeline.transformer, pipeline.tokenizer
    rows, columns = (side * tokenizer.downsampling for side in transformer.pyramid.finest)

    data = config.get("data", {})
    source = f", trained on {_pictures(data)}" if data else ""
    classes = f"{transformer.num_classes} classes" if transformer.num_classes else "without classes"
    return (
        f"Next-scale image generator (VAR, Tian et al. 2024): {rows}x{columns} pixels, {classes}{source}. "
        f"Position encoding `{transformer.config['encoding']}`, level embedding "
        f"`{transformer.config['level_embedding']}`; grids {transformer.pyramid} "
        f"({transformer.pyramid.num_tokens} tokens of {transformer.config['codebook_size']} codes). "
        f"{_size(transformer):,} parameters, and {_size(tokenizer):,} of the tokenizer."
    )


def _pictures(data: Json) -> str:
    """Which pictures were trained on: whoever gets a saved pipeline would think of the whole data set."""
    pictures = data.get("hub_id") or data["source"]
    if data.get("limit") is not None:
        pictures = f"at most {data['limit']:,} pictures of {pictures}"
    share = data.get("train_share", 1.0)
    return pictures if share == 1 else f"{100 * share:g}% of every class of {pictures}"


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _usage(name: str, pipeline: VARPipeline) -> str:
    label: str | int | None = None
    if pipeline.class_names:
        label = pipeline.class_names[0]
    elif pipeline.transformer.num_classes:
        label = 0

    return (
        "```python\nfrom var_pe.sampling.pipeline import VARPipeline\n\n"
        f'pipeline = VARPipeline.from_pretrained("{name}")  # this repository or folder\n'
        f"images = pipeline(class_labels={label!r}).images\n```"
    )


def _scores(metrics: Json) -> list[str]:
    """A paragraph and a table for each record that compares images with a reference."""
    records = [record for record in metrics.values() if "features" in record and "reference" in record]
    if not records:
        return ["None were computed."]

    parts = []
    if not any(record["features"]["comparable_with_papers"] for record in records):
        parts.append("None of these numbers is an FID or compares with those of papers.")
    for record in records:
        reference, sampler = record["reference"], record.get("sampler") or {}
        settings = ", ".join(f"{key} {value}" for key, value in sampler.items() if key != "weights")
        parts.append(
            f"Features of **{record['features']['name']}**: {record['num_images']} drawn images against "
            f"{reference['num_images']} {reference['set']} ({reference['split']} split). "
            f"{_origin(record['weights'])}; {settings or 'no sampler'}."
        )
        parts.append(scores_table(record))
    return parts


def _origin(weights: Json) -> str:
    if weights["step"] is None:
        return "Weights of an unknown step"
    return f"Step {weights['step']}, EMA {weights['ema']}"


def scores_table(record: Json) -> str:
    floor = record.get("floor") or {}
    rows = []
    for key, value in record["values"].items():
        beside = f"{floor[key]:.4g}" if key in floor else ""
        rows.append([_label(key, record["features"]), f"{value:.4g}", beside])
    return markdown_table(["score", "drawn", "real against real"], rows)


def _label(key: str, features: Json) -> str:
    """`frechet_distance_x` as `Frechet distance, x`; the extractor's name stands with every number."""
    plain = key.removesuffix(f"_{features['name']}")
    if plain == "fid":
        plain = "FID" if features["comparable_with_papers"] else "frechet_distance"

    for word, text in WORDS.items():
        plain = plain.replace(word, text)
    return f"{plain.replace('_', ' ')}, {features['name']}"


def _settings(config: Json) -> dict[str, object]:
    """What the weights follow from, without the paths of the machine they were trained on."""
    found: dict[str, object] = {}
    if "data" in config:
        usual = asdict(DataConfig())
        found["data"] = {
            key: value
            for key, value in config["data"].items()
            if key not in OF_THE_MACHINE and (value != usual.get(key) or (key in DATA and value is not None))
        }
    return found | {key: config[key] for key in SHOWN if key in config}

"""Results of a study that never ran, for tests of what is made of them."""

import base64
import io

import numpy as np
from PIL import Image

from var_pe.comparison.results import FORMAT, Results

FRECHET = "frechet_distance_efficientnet_lite0"
LOSS = "validation/loss"


def picture(grey: int = 120, number: int = 4) -> str:
    """A strip of pictures as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 10 * number, 3), grey, np.uint8)).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def results(margin: float = 0.0, handicapped: str | None = None, **losses: list[float]) -> Results:
    """A study whose arms have these validation losses, one for each seed; scores follow from them."""
    names = list(losses)
    cells, times = [], {}
    for name, values in losses.items():
        for seed, value in enumerate(values):
            steps = [1, 2, 3]
            cells.append({
                "arm": name, "seed": seed, "key": f"{name}_{seed}", "run": f"out/{name}_{seed}",
                "failed": None,
                "values": {
                    LOSS: value, FRECHET: 10 * value, "validation/loss/level_0": value + 1,
                    "validation/loss/level_1": value, "token_histogram_distance": 0.2,
                    "encoding_parameters": 0.0 if name == "none" else 100.0 * (1 + names.index(name)),
                    "parameters": 1_234_567.0,
                },
                "drawings": {"0": {FRECHET: 10 * value}, "1": {FRECHET: 10 * value + 0.5}},
                "curves": {
                    key: {"steps": steps, "values": [value + 1 / step for step in steps]}
                    for key in ("loss", LOSS, "validation/loss/level_0", "validation/loss/level_1")
                },
                "nats_by_place": [value + 0.1 * token for token in range(5)],
                "picture": "" if seed else picture(), "classes": [] if seed else list("abcd"),
            })  # fmt: skip
            times[f"{name}_{seed}"] = {
                "finished": "2026-01-01", "seconds_per_step": 0.01, "peak_memory_gb": 1.0 + seed,
            }  # fmt: skip

    record = {
        "values": {}, "num_images": 500,
        "features": {
            "name": "efficientnet_lite0", "weights_sha256": "a" * 64, "comparable_with_papers": False,
        },
        "reference": {"set": "images of shapes", "split": "test", "num_images": 500},
    }  # fmt: skip
    return {
        "format": FORMAT,
        "command": "python scripts/compare.py --study made_up.yaml",
        "study": {
            "config": "shapes.yaml", "encodings": names, "seeds": [0, 1], "output": "runs/made_up",
        },
        "arms": [
            {
                "name": name, "place": [name],
                "differs_in": [f"generator.encoding: {names[0]} -> {name}"] if name != names[0] else [],
                "encoding": name, "level_embedding": "learned",
                "seeds": list(range(len(values))), "handicapped": name == handicapped,
                "compared_with": names[0], "chosen": None,
            }
            for name, values in losses.items()
        ],
        "cells": cells,
        "primary": LOSS,
        "margin": margin,
        "floor": {FRECHET: 1.25},
        "records": {"drawn": record},
        "few_images": 2048,
        "labels": [("kind_as_asked_shapes", "kind as asked", "higher")],
        "shared": {
            "tokenizers": [{
                "folder": "runs/tokenizer", "psnr": 22.48, "levels": ["1x1", "2x2"],
                "perplexity": [51.2, 257.0], "usage": [0.45, 1.0], "codebook_size": 512,
                "num_images": 1000, "verdict": "It is good.",
            }],
            "real": picture(200), "reconstructed": picture(180), "grids": [[1, 1], [2, 2]],
            "extractors": [{
                "extractor": "efficientnet_lite0", "unchanged": 2.0, "largest_unchanged": 2.2,
                "shifted": 30.0, "exchanged": 40.0, "smallest_moved": 29.0, "images": 500,
                "sees_places": True,
            }],
            "times": {}, "sinusoid": {"dimensions": 3, "of": 4},
        },
        "config": {
            "data": {"source": "shapes", "height": 32, "width": 32},
            "generator_training": {"steps": 1500, "batch": 64, "learning_rate": 0.001},
            "sampling": {"guidance_scale": 1.5, "batch": 100, "size": None},
        },
        "versions": {"python": "3.11"},
        "times": {
            "written": "2026-01-01T00:00:00+00:00", "cells": times, "own_processes": True,
            "device": "cpu", "threads": 1, "steps": [],
        },
    }  # type: ignore[typeddict-item]  # fmt: skip

"""The diagnosis put together: findings under headings, and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from var_pe.diagnosis.finding import Finding
from var_pe.diagnosis.measures import PlacedEncoding
from var_pe.diagnosis.model_findings import grids, mixture, neighbourhood, norms, prefix, rotary, weights
from var_pe.diagnosis.moving import moved
from var_pe.diagnosis.opening import Checkpoint, open_subject
from var_pe.diagnosis.pictures import bias_figure, norm_histograms, similarity_figures, wavelength_figure
from var_pe.diagnosis.saved_files import misfits, model_folder
from var_pe.diagnosis.size_findings import at_size, drawing
from var_pe.diagnosis.subject import Subject, tokens_before_positions
from var_pe.diagnosis.task_findings import for_task
from var_pe.encodings.base import HOOKS
from var_pe.evaluation.evidence import TaskScore
from var_pe.pyramid import Grid
from var_pe.resampling.conventions import DEFAULT_CONVENTION


@dataclass(frozen=True)
class Diagnosis:
    """The findings and pictures of a diagnosis."""

    title: str
    intro: str
    # findings by heading
    sections: dict[str, list[Finding]]
    # by title
    pictures: dict[str, Figure]


def diagnose(
    path: Path,
    checkpoint: Checkpoint | None = None,
    *,
    size: Grid | None = None,
    convention: str = DEFAULT_CONVENTION,
    task: str | None = None,
    evidence: Sequence[TaskScore] = (),
) -> Diagnosis:
    """Everything about the model at `path`; one whose files do not fit each other is not loaded.

    Raises:
        ValueError: there is no such model, or it cannot have this `size`.
    """
    folder = model_folder(path)
    if folder is not None:
        wrong = list(misfits(folder))
        if wrong:
            return Diagnosis(f"Positions of {path.name}", "It was not loaded.", {"Files": wrong}, {})
    return diagnose_subject(open_subject(path, checkpoint), size, convention, task, evidence)


def diagnose_subject(
    subject: Subject,
    size: Grid | None,
    convention: str,
    task: str | None,
    evidence: Sequence[TaskScore],
) -> Diagnosis:
    """Everything about an open model; one whose weights are NaN or infinite is not measured further."""
    model = subject.model
    line = str(model.config["encoding"])
    hooks = ", ".join(hook for hook in HOOKS if subject.encoding.uses(hook)) or "nothing"
    title = f"Positions of {subject.name}"
    intro = f"{type(model).__name__}, encoding {line}, grids {model.pyramid}; it acts on {hooks}."

    sections = {"Weights": [*weights(subject), *grids(subject), *prefix(subject)]}
    if any(finding.verdict == "problem" for finding in sections["Weights"]):
        return Diagnosis(title, intro, sections, {})

    here = PlacedEncoding(subject.encoding, model.pyramid, model.config["dim"], model.config["num_heads"])
    tokens_BLC, what = tokens_before_positions(subject)
    sections["At its own size"] = [
        *norms(here, tokens_BLC, what),
        *neighbourhood(here),
        *rotary(here),
        *mixture(here),
    ]

    there = None
    if size is not None:
        height, width = size
        there = at(here, subject, size, convention)
        sections[f"At {height}x{width} pixels"] = [
            *drawing(subject, size),
            *at_size(here, there, convention),
        ]

    if task is not None:
        sections[f"For {task}"] = list(for_task(line, task, evidence))

    pictures = similarity_figures(here, there if isinstance(there, PlacedEncoding) else None)
    others = {
        "Norms of tokens and of positions": norm_histograms(here, tokens_BLC),
        "Rotary wavelengths against the grid": wavelength_figure(here),
        "What the bias lets the centre see": bias_figure(here),
    }
    pictures |= {name: figure for name, figure in others.items() if figure is not None}
    return Diagnosis(title, intro, sections, pictures)


def at(here: PlacedEncoding, subject: Subject, size: Grid, convention: str) -> PlacedEncoding | ValueError:
    """The encoding at images of another size, or why it cannot follow.

    Raises:
        ValueError: the model has no such size.
    """
    pyramid = subject.pyramid_at(size)
    try:
        return moved(here, pyramid, convention)
    except ValueError as error:
        return error

"""A study's results as a page of the documentation: Markdown, charts, and the data that all of it is made of.

Beside the pages of all studies an index says what each found and what became of the claims of articles.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from var_pe.comparison.claims import CLAIMS, rules_of
from var_pe.comparison.figures import charts_of, places_of
from var_pe.comparison.guide import RULE, SITUATIONS, advice
from var_pe.comparison.report import (
    answer,
    findings,
    missing,
    question,
    report_of,
    sample_rows,
    sensitivity,
    title,
    trained,
)
from var_pe.comparison.results import Curve, Results, read, thinned
from var_pe.comparison.writing import SAMPLES, as_markdown, samples_png
from var_pe.files import write_text, written_whole
from var_pe.pages.charts import png
from var_pe.pages.tables import markdown_table

INDEX = "README.md"
POINTS = 60  # of a published curve at most
DIGITS = 6  # of its values
PICTURES = ("picture", "real", "reconstructed")  # in base64, whose slashes are no paths

# A path from the root, but for those of the system's own packages
ABSOLUTE = re.compile(r"(?<![\w.~/-])/(?!usr/)(?:[\w.+@-]+/)+[\w.+@-]+")


def publish(results: Results, page: Path) -> list[Path]:
    """Writes `page`, a name without an ending, as .md, .json and pictures, and the index; gives these."""
    name = page.with_suffix("").name
    results = portable(results, name)
    page.parent.mkdir(parents=True, exist_ok=True)

    # Pictures by the titles of their sections
    places = places_of(results)
    pictures = {"Ranking and curves": (f"{name}_charts.png", png(charts_of(results)))}
    if places is not None:
        pictures["Where the loss is"] = (f"{name}_places.png", png(places))
    if sample_rows(results):
        pictures[SAMPLES] = (f"{name}_samples.png", samples_png(results))
    for file, data in pictures.values():
        with written_whole(page.with_name(file)) as draft:
            draft.write_bytes(data)

    files = {title: file for title, (file, _) in pictures.items()}
    report = report_of(results)
    text = as_markdown(replace(report, title=f"{name}: {report.title}"), files) + made_by(results, name)
    write_text(page.with_name(f"{name}.md"), text)
    write_text(page.with_name(f"{name}.json"), in_lines(results))
    write_text(page.with_name(INDEX), index(page.parent))
    return [page.with_name(file) for file in (*files.values(), f"{name}.md", f"{name}.json", INDEX)]


def made_by(results: Results, name: str) -> str:
    """Which commands make the page anew, with and without training."""
    again = f"python scripts/compare.py --report docs/studies/{name}.json"
    return (
        f"\nMade of `{name}.json` without training: this page by `{again} --publish docs/studies/{name}`, "
        f"one whose curves can be pointed at by `{again} --output runs/{name}`. The study ran by "
        f"`{results['command']}`.\n"
    )


# ------------------------------------------------------------------------------------------------- the data


def portable(results: Results, name: str) -> Results:
    """The results without paths of the machine they were made on, their curves thinned out to `POINTS`."""
    output = str(cast(Mapping[str, object], results["study"])["output"])
    cells = [
        {**cell, "curves": {key: published(curve) for key, curve in cell["curves"].items()}}
        for cell in results["cells"]
    ]
    return cast(Results, _moved({**results, "cells": cells}, output, name))


def published(curve: Curve) -> Curve:
    """Thinned out, its values rounded to `DIGITS`."""
    thin = thinned(curve, POINTS)
    return {"steps": thin["steps"], "values": [float(f"{value:.{DIGITS}g}") for value in thin["values"]]}


def _moved(value: object, output: str, name: str) -> object:
    if isinstance(value, Mapping):
        return {key: each if key in PICTURES else _moved(each, output, name) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, output, name) for each in value]
    if not isinstance(value, str):
        return value
    return ABSOLUTE.sub(lambda found: _here(Path(found[0]), Path(output), name), value)


def _here(path: Path, output: Path, name: str) -> str:
    """A path of another machine as one of this machine: configs are found by name, runs lie in runs/."""
    if path.is_relative_to(output):
        return f"runs/studies/{name}" + str(path).removeprefix(str(output))
    return path.name if path.suffix == ".yaml" else f"runs/{path.name}"


def in_lines(results: Results) -> str:
    """JSON with a line for each entry of each list, so that two versions can be compared."""
    parts = []
    for key, value in results.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(_dense(each) for each in value) + "\n]"
        else:
            text = _dense(value)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _dense(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


# ------------------------------------------------------------------------------------------------ the index


def index(folder: Path) -> str:
    """All studies of a folder, and every claim by the studies that looked at it."""
    studies = {file.stem: read(file) for file in sorted(folder.glob("*.json")) if _is_study(file)}
    lines = ["# Studies: which encoding to take, and how sure that is", ""]
    lines += [markdown_table(["situation", "what to take", "study"], guide_rows(studies)), ""]
    lines += [f"- The rule: {RULE}", ""]

    lines += ["## What each study found", ""]
    for name, results in studies.items():
        lines += [f"### [{name}]({name}.md): {title(results)}", ""]
        told = (question(results), " ".join(answer(results)), sensitivity(results))
        lines += [each for one in told if one for each in (one, "")]
        lines += [f"- {line}" for line in (*findings(results), *missing(results), trained(results))]
        lines += [""]

    rows = []
    for claim in CLAIMS:
        looked = {name: claim.look(results) for name, results in studies.items()}
        found_by = {name: finding for name, finding in looked.items() if finding is not None}
        for name, finding in found_by.items():
            said = [claim.claim, finding.measured, f"**{finding.verdict}**", f"`{studies[name]['command']}`"]
            rows.append(said)
        if not found_by:
            command = f"`python scripts/compare.py --study {claim.study} --jobs 2`"
            rows.append([claim.claim, "nothing yet", "not measured", command])

    pages = [file for file in sorted(folder.glob("*.md")) if file.stem not in (*studies, Path(INDEX).stem)]
    if pages:
        lines += ["## More pages", ""]
        lines += [f"- [{file.stem}]({file.name}): {heading(file)}" for file in pages]
        lines += [""]

    lines += ["## Claims of articles, and what became of them", ""]
    lines += [markdown_table(["claim", "what was measured", "verdict", "command"], rows), ""]
    lines += [*(f"- {rule}" for rule in rules_of(CLAIMS)), ""]
    return "\n".join(lines)


def heading(page: Path) -> str:
    """The first line of a page of Markdown."""
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def guide_rows(studies: Mapping[str, Results]) -> list[list[str]]:
    """What to take in every situation; of what was not run, the command."""
    rows = []
    for situation, name in SITUATIONS:
        if name in studies:
            rows += [[situation, line, f"[{name}]({name}.md)"] for line in advice(studies[name])]
        else:
            command = f"`python scripts/compare.py --study {name}.yaml --jobs 2`"
            rows.append([situation, "not run yet", command])
    return rows


def _is_study(file: Path) -> bool:
    """Whether a JSON file holds a study's results; other measurements may lie beside them."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return isinstance(found, dict) and "arms" in found and "cells" in found

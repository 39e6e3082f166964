"""Pages are made from templates that travel with the package; what comes from outside is never markup."""

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import jinja2
import pytest

from var_pe.pages.html import TEMPLATES, embedded, render

ROOT = Path(__file__).parents[2]
DIAGNOSIS = {"title": "<b>&", "intro": "said", "sections": {}, "pictures": {}}
RENDER = f"""
from var_pe.pages import html
page = html.render("diagnosis.html.j2", **{DIAGNOSIS})
print(html.__file__)
print(page)
"""


def test_text_is_escaped_and_the_style_stands_in_the_page():
    """An encoding's line or a folder may hold any signs."""
    page = render("diagnosis.html.j2", **DIAGNOSIS)
    assert "<h1>&lt;b&gt;&amp;</h1>" in page
    assert "border-collapse: collapse" in page
    assert page.startswith("<!DOCTYPE html>")


def test_a_value_that_a_template_misses_is_an_error():
    """It would be a hole in the page that nobody notices."""
    with pytest.raises(jinja2.UndefinedError):
        render("diagnosis.html.j2", title="alone")


def test_a_picture_is_written_into_its_address():
    assert embedded(b"\x89PNG") == "data:image/png;base64,iVBORw=="


def test_the_templates_and_the_style_travel_with_a_wheel(tmp_path):
    """A package without its templates works from a clone and nowhere else."""
    if not (find_spec("pip") and find_spec("setuptools")):
        pytest.skip("pip and setuptools build the wheel")
    source = tmp_path / "source"
    copytree(ROOT / "var_pe", source / "var_pe", ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, source / name)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    line = [sys.executable, "-m", "pip", "wheel", str(source), *offline, "--wheel-dir", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
        names = set(archive.namelist())
    assert {f"var_pe/pages/templates/{name}" for name in (*TEMPLATES.list_templates(), "style.css")} <= names

    done = subprocess.run(
        [sys.executable, "-c", RENDER],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where, _, page = done.stdout.partition("\n")
    assert where.startswith(str(tmp_path / "installed"))
    assert page.strip() == render("diagnosis.html.j2", **DIAGNOSIS).strip()

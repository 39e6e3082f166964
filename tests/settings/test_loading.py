"""The settings' promises, on toy sections: who wins, what is refused, and in which words."""

import argparse
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, replace
from typing import Annotated, Literal

import pytest
import yaml
from annotated_types import Len, Lt

from var_pe.settings import loading as config_files
from var_pe.settings.command_line import check_options, describe, given_path, parse_arguments
from var_pe.settings.fields import (
    CHANGES_NO_WEIGHTS,
    Doc,
    FilePath,
    OneOf,
    Positive,
    Share,
    check_choice,
    section,
)
from var_pe.settings.loading import ConfigError, differences, load, to_yaml
from var_pe.stages.session import exit_with_sentence

FONTS = {"serif": 1, "mono": 2}


@section
class Generator:
    depth: Annotated[Positive, Doc("blocks")] = 6
    dim: Annotated[int, Doc("channels, a multiple of 8")] = 192
    encoding: Annotated[str, Doc("one line")] = "learned"
    dropout: Share = 0.0

    def __post_init__(self) -> None:
        if self.dim % 8:
            raise ValueError(f"dim must be a multiple of 8, got {self.dim}")


@section
class Classifier:
    mixup: Annotated[float, Doc("share of the images whose label is mixed with another image's")] = 0.8
    head: Annotated[Generator | None, Doc("a second head")] = None


@section
class Sampling:
    top_p: Annotated[Share | None, Doc("null keeps every token")] = None
    precision: Literal["no", "bf16"] = "no"


@section
class Toy:
    seed: Annotated[int, Doc("everything random follows from it")] = 0
    path: Annotated[FilePath | None, Doc("a folder")] = None
    flip: Annotated[bool, CHANGES_NO_WEIGHTS] = False
    pyramid: Annotated[list[int], Doc("sides")] = field(default_factory=lambda: [1, 2, 4])
    grids: list[list[int] | int] = field(default_factory=lambda: [1, [2, 3]])
    names: list[str] = field(default_factory=list)
    font: Annotated[str, OneOf(FONTS), Doc("of the picture")] = "serif"
    margins: Annotated[list[Positive], Len(2, 2)] = field(default_factory=lambda: [1, 1])
    generator: Generator = field(default_factory=Generator)
    sampling: Sampling = field(default_factory=Sampling)
    classifier: Annotated[Classifier | None, Doc("trains a classifier")] = None


@section
class Bounded:
    share: Annotated[float, Lt(1)] = 0.5


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes config files into the working directory, which is empty at first."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "toy.yaml") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


def sentence(call) -> str:
    """The message of the ConfigError that `call` ends in, which is one line."""
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------------------- who wins


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(write):
    """An experiment is the lines that differ; any other order would make them void."""
    toy = load(Toy, write("generator: {depth: 8, dim: 64}"), ["generator.depth=10"])
    assert toy.generator == Generator(depth=10, dim=64, encoding="learned")
    assert load(Toy, write("")) == Toy()


def test_a_file_wins_over_its_base_and_the_later_override_over_the_earlier(write):
    """A variant of a data set's config is `base:` and the lines that differ, over any number of files."""
    write("seed: 1\ngenerator: {depth: 1, dim: 8}", "low.yaml")
    write("base: low.yaml\ngenerator: {depth: 2}", "middle.yaml")
    toy = load(Toy, write("base: middle\nseed: 3\n"), ["flip=true", "flip=false"])
    assert (toy.seed, toy.generator.depth, toy.generator.dim, toy.flip) == (3, 2, 8, False)


def test_base_is_relative_to_the_file_that_names_it(write, tmp_path):
    """A folder of configs can be moved or called from anywhere."""
    (tmp_path / "study").mkdir()
    write("seed: 7", "study/low.yaml")
    write("base: low.yaml", "study/high.yaml")
    assert load(Toy, "study/high.yaml").seed == 7


def test_files_that_include_each_other_are_refused(write):
    """Otherwise the program hangs or dies of recursion."""
    write("base: b.yaml", "a.yaml")
    write("base: a.yaml", "b.yaml")
    assert "a.yaml -> b.yaml -> a.yaml" in sentence(lambda: load(Toy, "a.yaml"))


def test_a_bare_name_is_looked_up_in_configs(write, tmp_path, monkeypatch):
    """`--config cifar_mixed.yaml` works from any folder; a file of that name at hand comes first."""
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(config_files, "CONFIGS", tmp_path / "configs")
    write("seed: 5", "configs/cifar.yaml")
    assert load(Toy, "cifar.yaml").seed == load(Toy, "cifar").seed == 5
    write("seed: 6", "cifar.yaml")
    assert load(Toy, "cifar.yaml").seed == 6


def test_a_missing_file_is_a_sentence_with_the_names_that_are_there(write):
    """A slip in the name is the commonest mistake of all."""
    write("", "cifar_mixed.yaml")
    assert sentence(lambda: load(Toy, "cifar_mixd")).endswith("; did you mean cifar_mixed?")
    for name in ("zzz", "nowhere/zzz.yaml"):
        said = sentence(lambda name=name: load(Toy, name))
        assert "did you mean" not in said
        assert all(path.stem in said for path in config_files.CONFIGS.glob("*.yaml"))


def test_a_whole_path_that_is_missing_is_not_looked_for_in_a_folder(tmp_path):
    said = sentence(lambda: load(Toy, tmp_path / "zzz.yaml"))
    assert said.startswith(f"there is no config file {tmp_path / 'zzz.yaml'}; ")


def test_the_home_of_a_user_that_is_not_known_is_a_path_like_any_other(write):
    """`~name/` of a user that this machine does not have must not end in a trace."""
    said = sentence(lambda: load(Toy, "~nobody_here/toy"))
    assert said.startswith("there is no config file ~nobody_here/toy ")
    assert str(given_path("~nobody_here/toy")) == "~nobody_here/toy"


# ------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        (
            "generator.encoding=mixed(learned=0.7, sinusoidal=0.3)",
            "encoding",
            "mixed(learned=0.7, sinusoidal=0.3)",
        ),
        ("generator.encoding=sinusoidal + peg", "encoding", "sinusoidal + peg"),
        ("generator.encoding=a: [1", "encoding", "a: [1"),
        ("generator.encoding=12", "encoding", "12"),
        ("generator.encoding=null", "encoding", "null"),
        ("generator.dropout=1e-4", "dropout", 1e-4),
        ("generator.dropout=1", "dropout", 1.0),
        ("generator.dropout=.5E-1", "dropout", 0.05),
        ("sampling.top_p=0.9", "top_p", 0.9),
        ("sampling.top_p=null", "top_p", None),
        ("sampling.precision=no", "precision", "no"),
        ("path=null", "path", None),
        ("path=2026-01-01", "path", "2026-01-01"),
        ("pyramid=[1,2,3]", "pyramid", [1, 2, 3]),
        ("grids=[[1, 2], 3]", "grids", [[1, 2], 3]),
        ("names=[no, 'a, b', 'mixed(learned=0.7)']", "names", ["no", "a, b", "mixed(learned=0.7)"]),
        ("flip=true", "flip", True),
    ],
)
def test_an_override_is_read_as_its_setting_asks(write, override, key, value):
    """An encoding's line must come through as it was typed, and 1e-4 must be a number."""
    toy = asdict(load(Toy, write(""), [override]))
    found = (toy | toy["generator"] | toy["sampling"])[key]
    assert found == value
    assert type(found) is type(value)


def test_a_file_reads_scalars_as_yaml_1_2_does(write):
    """YAML 1.1 reads 1e-4 as text and `no` as false, to everyone's surprise."""
    toy = load(Toy, write("generator: {dropout: 1e-4, encoding: no}\nnames: [on, 1:30]"))
    assert (toy.generator.dropout, toy.generator.encoding, toy.names) == (1e-4, "no", ["on", "1:30"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("generator: {depth: six}", ("generator.depth", "toy.yaml", "int", "six")),
        ("generator: {depth: 6.0}", ("generator.depth", "int", "6.0")),
        ("generator: {depth: true}", ("generator.depth", "int", "true")),
        ("generator: {depth: '6'}", ("generator.depth", "int", "'6'")),
        (
            "generator: {dropout: .nan}",
            ("generator.dropout", "at least 0, at most 1", ".nan (it is not finite)"),
        ),
        ("generator: {encoding: 12}", ("generator.encoding", "str", "12", "quotes")),
        ("generator: 3", ("generator", "section", "3")),
        ("generator:", ("generator", "section", "null")),
        ("flip: 1", ("flip", "bool", "1")),
        ("seed: null", ("seed", "int", "null")),
        ("pyramid: [1, two]", ("pyramid", "list of int", "[1, two]")),
        ("grids: [[1, 2.5]]", ("grids", "list of (list of int or int)")),
        ("sampling: {precision: fp16}", ("sampling.precision", "one of 'no', bf16", "fp16")),
        ("font: sans", ("font", "one of serif, mono", "sans")),
        ("margins: [1, 2, 3]", ("margins", "2 of them", "[1, 2, 3]")),
        ("margins: [0, 2]", ("margins", "at least 1", "[0, 2]")),
        ("sampling: {top_p: high}", ("sampling.top_p", "float or null", "high")),
        ("classifier: true", ("classifier", "section or null", "true")),
    ],
)
def test_a_value_of_the_wrong_type_names_key_value_and_type(write, text, parts):
    """Repairing it silently would train something else than what was written."""
    message = sentence(lambda: load(Toy, write(text)))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("wrong", ["six", "0"])
def test_a_wrong_value_is_refused_where_it_is_written_even_if_another_hides_it(write, wrong):
    """It waits there for the next config that rests on the file."""
    write(f"generator: {{depth: {wrong}}}", "low.yaml")
    said = sentence(lambda: load(Toy, write("base: low\ngenerator: {depth: 3}"), ["generator.depth=3"]))
    assert said.startswith("generator.depth in low.yaml must be ")
    said = sentence(lambda: load(Toy, None, [f"generator.depth={wrong}", "generator.depth=3"]))
    assert said.startswith("generator.depth on the command line must be ")


def test_a_rule_of_a_section_is_reported_with_the_section(write):
    """`dim must be ...` alone does not say whose dim."""
    message = sentence(lambda: load(Toy, write("generator: {dim: 12}")))
    assert message == "generator.dim must be a multiple of 8, got 12"


def test_a_setting_without_default_must_be_given(write):
    """A run's folder has no sensible default."""

    @section
    class Needs:
        folder: str

    assert sentence(lambda: load(Needs, write(""))).startswith("folder has no default: give it in ")
    assert load(Needs, write(""), ["folder=a"]).folder == "a"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Generator(depth=0), "depth must be int, at least 1, got 0"),
        (lambda: Generator(depth="6"), "depth must be int, at least 1, got '6'"),
        (lambda: Generator(dim=12), "dim must be a multiple of 8, got 12"),
        (lambda: replace(Generator(), dropout=1.5), "dropout must be float, at least 0, at most 1, got 1.5"),
        (lambda: Generator(zzz=3), "unknown key zzz; there are depth, dim, encoding, dropout"),
        (lambda: Toy(classifier=3), "classifier must be section or null, got 3"),
    ],
)
def test_a_section_made_in_code_is_checked_in_the_same_words(make: Callable[[], object], message: str):
    """A study changes settings by `replace`, and no file is between it and the training."""
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_section_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Generator().depth = 3


def test_a_choice_is_checked_against_the_literal_or_the_table_that_names_it():
    check_choice("font", "mono", FONTS)
    with pytest.raises(ValueError, match="font is one of serif, mono, got 'sans'"):
        check_choice("font", "sans", FONTS)
    with pytest.raises(ValueError, match="pool is one of a, b, got 3"):
        check_choice("pool", 3, Literal["a", "b"])


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "generator: {encodng: a}",
            "unknown key generator.encodng in toy.yaml; did you mean generator.encoding?",
        ),
        ("depth: 3", "unknown key depth in toy.yaml; did you mean generator.depth?"),
        (
            "sampling: {zzz: 3}",
            "unknown key sampling.zzz in toy.yaml; there are sampling.top_p, sampling.precision",
        ),
        (
            "seed: 1\ngenerator.depth: 3",
            "cannot read the YAML in toy.yaml, line 2: "
            "write generator.depth as nested sections, not with a dot",
        ),
        ("seed: 1\nseed: 2", "cannot read the YAML in toy.yaml, line 2: the key seed is given twice"),
        ("[1, 2]", "toy.yaml must hold lines of the form `key: value`, got [1, 2]"),
        ("base: [a, b]", "base in toy.yaml must be the name of one file, got [a, b]"),
    ],
)
def test_what_is_not_understood_is_refused(write, text, message):
    """A misspelt key that is ignored costs a night of training."""
    assert sentence(lambda: load(Toy, write(text))) == message


@pytest.mark.parametrize(
    "text", ["path: ${seed}", "names: [a, 'x${oc.env:HOME}']", "${seed}: 1", "base: ${a}"]
)
def test_interpolations_are_refused_in_files(write, text):
    """They would stay text here and mean something in other programs that read the saved config."""
    assert "interpolation" in sentence(lambda: load(Toy, write(text)))


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("path=${seed}", "${seed} of path on the command line is an interpolation"),
        ("names=['${seed}']", "interpolation"),
        ("generator.encodng=a", "did you mean generator.encoding?"),
        ("seed.sub=1", "unknown key seed.sub on the command line; there are seed, path, "),
        ("seed", "key.sub=value"),
        ("=1", "key.sub=value"),
        ("pyramid=[1, 2", "pyramid on the command line"),
        ("seed=one", "seed on the command line must be int, got one"),
        ("classifier.mixup=0.5", "which is off: put classifier={} before it"),
    ],
)
def test_a_wrong_override_is_refused(write, override, part):
    """The command line is where most slips happen."""
    assert part in sentence(lambda: load(Toy, write(""), [override]))


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: !!python/object:os.system x",
        "seed: !!timestamp 2026-01-01",
        "? [a]\n: 1",
        "a: *b",
        "a: b: c",
        "a: &a {b: *a}",
        "generator: &itself {dim: *itself}",
        "[" * 5000,
        "\0",
    ],
)
def test_broken_yaml_is_one_sentence_that_names_the_file(write, text):
    """No YAML may end in a parser's trace, and none may run code."""
    assert "toy.yaml" in sentence(lambda: load(Toy, write(text)))


# ------------------------------------------------------------------------------------------- sections


def test_a_mapping_turns_an_optional_section_on_and_null_off(write):
    """A classifier's config is the section `classifier`; a variant must be able to take it away again."""
    assert load(Toy, write("")).classifier is None
    write("classifier: {mixup: 0.5}", "on.yaml")
    assert load(Toy, "on.yaml", ["classifier.head={}", "classifier.head.dim=8"]).classifier == Classifier(
        mixup=0.5, head=Generator(dim=8)
    )
    assert load(Toy, write("base: on.yaml\nclassifier: null")).classifier is None
    assert load(Toy, "on.yaml", ["classifier=null"]).classifier is None
    assert load(Toy, write("classifier: {}")).classifier == Classifier()
    again = load(Toy, "on.yaml", ["classifier=null", "classifier={}"]).classifier
    assert again == Classifier(), "what was switched off must not come back with old settings"


# ------------------------------------------------------------------------------------------- out again


def test_a_saved_config_is_read_back_the_same(tmp_path):
    """The run folder's config.yaml is what a resume goes by; text that looks like a number stays text."""
    for text in [
        "no",
        "1e-4",
        "010",
        "1:30",
        "null",
        "",
        "~",
        "2026-01-01",
        " a ",
        "a: b",
        "ü",
        "x\ny",
        "[1]",
        "0x1",
    ]:
        toy = Toy(
            path=None, generator=Generator(dropout=1e-7, encoding=text), names=[text], classifier=Classifier()
        )
        (tmp_path / "config.yaml").write_text(to_yaml(toy), encoding="utf-8")
        assert load(Toy, tmp_path / "config.yaml") == toy
        assert yaml.safe_load(to_yaml(toy))["names"] == [text], "plain YAML readers must agree"


def test_yaml_is_readable_and_in_the_order_of_the_dataclasses():
    """A person reads it: a line per setting, lists on one line."""
    lines = to_yaml(Toy()).splitlines()
    assert lines[:5] == ["seed: 0", "path: null", "flip: false", "pyramid: [1, 2, 4]", "grids: [1, [2, 3]]"]
    assert lines[8:11] == ["generator:", "  depth: 6", "  dim: 192"]


def test_differences_name_each_key_once():
    """A changed config in an existing run is refused by naming the keys."""
    old, new = asdict(Toy()), asdict(Toy(generator=Generator(depth=8), classifier=Classifier(), path="a"))
    assert differences(old, new) == [
        "path: null -> a",
        "generator.depth: 6 -> 8",
        "classifier: null -> {mixup: 0.8, head: null}",
    ]
    assert differences({"a": (1, 2), "b": 1}, {"a": [1, 2], "c": 1.0}) == [
        "b: 1 -> absent",
        "c: absent -> 1.0",
    ]
    assert not differences(old, yaml.safe_load(to_yaml(Toy())))


def test_what_changes_no_weights_is_no_difference(tmp_path, monkeypatch):
    """A run must not be locked by how often it logs, or by how its folder is spelled."""
    monkeypatch.chdir(tmp_path)
    old = asdict(Toy(path="runs/a"))
    for same in (Toy(path="./runs/a/"), Toy(path=str(tmp_path / "runs/a")), Toy(path="runs/a", flip=True)):
        assert differences(old, asdict(same), Toy) == []
    assert differences(old, asdict(Toy(path="runs/b")), Toy) == ["path: runs/a -> runs/b"]
    several = [asdict(Toy(path=f"network + {path}")) for path in ("runs/a", "./runs/a", "runs/b")]
    assert differences(several[0], several[1], Toy) == []
    assert differences(several[0], several[2], Toy) != []
    assert differences(old, asdict(Toy(path="./runs/a/"))) != [], "without a schema nothing is known of paths"


# ------------------------------------------------------------------------------------------- scripts


def test_help_shows_every_setting_with_type_range_choices_default_and_meaning(capsys):
    """What stands at the field is what --help says; it cannot go stale."""
    with pytest.raises(SystemExit):
        parse_arguments(["--help"], description="Toys with it.", schema=Toy)
    shown = capsys.readouterr().out
    assert describe(Toy) in shown
    for line in [
        "seed: int = 0",
        "everything random follows from it",
        "path: str or null, not empty = null",
        "pyramid: list of int = [1, 2, 4]",
        "font: one of serif, mono = serif",
        "margins: list of int, at least 1, 2 of them = [1, 1]",
        "generator.dim: int = 192",
        "generator.dropout: float, at least 0, at most 1 = 0.0",
        "channels, a multiple of 8",
        "sampling.precision: one of 'no', bf16 = 'no'",
        "classifier: section or null = null",
        "share of the images whose label is mixed with another image's",
        "  classifier.head.depth: int, at least 1 = 6",
    ]:
        assert line in shown
    assert describe(Bounded) == "  share: float, below 1 = 0.5"


def test_a_script_s_own_options_are_checked_like_settings():
    arguments = argparse.Namespace(each=0, strength=None, margins=[1, -1], image_size=None)
    check_options(arguments, strength=Share, image_size=list[Positive])
    with pytest.raises(ValueError, match="--each must be int, at least 1, got 0"):
        check_options(arguments, each=Positive)
    with pytest.raises(ValueError, match=r"--margins must be list of int, at least 1, got \[1, -1\]"):
        check_options(arguments, margins=list[Positive])


def test_overrides_may_stand_anywhere_after_the_script_s_name(write):
    """People add an override at the end, after the options."""
    toy, namespace = parse_arguments(
        ["seed=1", "--config", write(""), "flip=true", "--dry-run", "path=a b"],
        description="",
        schema=Toy,
        extra=lambda parser: parser.add_argument("--dry-run", action="store_true"),
    )
    assert (toy.seed, toy.flip, toy.path, namespace.dry_run) == (1, True, "a b", True)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("seed is\n  wrong"), 2, "error: seed is wrong\n"),
        (FileNotFoundError(2, "No such file", "runs/a"), 2, "error: runs/a does not exist\n"),
        (ValueError(), 2, "error: ValueError\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_what_a_person_caused_ends_in_one_line(capsys, error, status, line):
    """A trace hides the one sentence that helps."""

    @exit_with_sentence()
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == status
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_trace():
    """A bug without its trace cannot be reported."""
    with pytest.raises(ZeroDivisionError), exit_with_sentence():
        _ = 1 / 0


def test_what_the_system_refuses_is_a_sentence_too(tmp_path, capsys):
    """An output folder that is a file is a person's mistake, not a bug."""
    there = tmp_path / "there"
    there.write_text("")
    with pytest.raises(SystemExit) as stopped, exit_with_sentence():
        (there / "below").mkdir()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {there / 'below'}: Not a directory\n"

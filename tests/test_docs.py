"""The documents are true: their code runs, their commands exist, their links lead somewhere.

A Python block that must not run says why in a comment right before it, ``<!-- not run: needs a GPU -->``. A
block of shell commands is read word by word against the command line; with ``<!-- run -->`` before it, its
medseg commands are run too.
"""

from __future__ import annotations

import ast
import dataclasses
import doctest
import fnmatch
import importlib
import inspect
import pkgutil
import re
import shlex
import shutil
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import medseg
from medseg.cli import main
from medseg.cli.commands import app
from medseg.cli.run import UsageError
from medseg.pacs.settings import parse_settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"python", "sh", "toml", "text"}
SKIPPED_DOCTESTS: dict[str, str] = {}  # name -> why it does not run
DATASET_KEYS = {
    "name",
    "root",
    "kind",
    "classes",
    "ignore",
    "colours",
    "things",
    "channels",
    "spacing",
    "unit",
    "files",
    "csv",
    "splits",
    "tags",
    "cases",
}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: its language, its text, the line it starts at, the comment before it."""

    language: str
    code: str
    line: int
    comment: str


def blocks(text: str) -> list[Block]:
    """Take the fenced blocks out of a Markdown text."""
    found, lines, i, before = [], text.splitlines(), 0, ""
    while i < len(lines):
        fence = re.fullmatch(r"\s*```(.*)", lines[i])
        if fence is None:
            before = lines[i].strip() or before
            i += 1
            continue
        end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == "```"), None)
        assert end is not None, f"line {i + 1}: the block has no end"
        code = inspect.cleandoc("\n".join(["", *lines[i + 1 : end]]))
        found.append(Block(fence[1].strip(), code, i + 1, before if before.startswith("<!--") else ""))
        before, i = "", end + 1
    return found


def run_python(text: str, name: str) -> int:
    """Run the Python blocks of a page in one namespace; return how many."""
    module = types.ModuleType("page")
    count = 0
    for block in blocks(text):
        if block.language != "python" or _reason_not_to_run(block):
            continue
        # the lines of a traceback are those of the page
        exec(compile("\n" * block.line + block.code, name, "exec"), module.__dict__)
        count += 1
    return count


def _reason_not_to_run(block: Block) -> str:
    reason = re.fullmatch(r"<!-- not run: (.*\w.*) -->", block.comment)
    return reason[1] if reason else ""


def commands(text: str) -> Iterator[tuple[Block, list[str]]]:
    """The words of each medseg command in the shell blocks of a page."""
    for block in blocks(text):
        if block.language != "sh":
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||;|\|", line):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == "medseg":
                    yield block, [w for w in words[1:] if w != "--debug"]


def check_command(words: list[str]) -> None:
    """Read the words of a command as the command line would, without doing anything."""
    group = typer.main.get_command(app)
    try:
        context = group.make_context("medseg", list(words))
        while hasattr(group, "resolve_command"):
            rest = [*context._protected_args, *context.args]
            name, command, rest = group.resolve_command(context, rest)
            context, group = command.make_context(name, rest, parent=context), command
    except typer.Exit:
        return  # --help and --version
    medseg.Plan().with_overrides(context.params.get("overrides") or [])


def check_toml(text: str) -> None:
    """A block of TOML describes a data set, holds tables of a plan, or the settings of a service."""
    table = tomllib.loads(text)
    if "spool" in table:
        parse_settings(table, Path())
        return
    if set(table) <= DATASET_KEYS:
        return
    values = {
        f"{name}.{key}": v
        for name, part in table.items()
        if isinstance(part, dict)
        for key, v in part.items()
    }
    medseg.Plan().with_values(values)
    known = {"format", "name", *(f.name for f in dataclasses.fields(medseg.Plan))}
    assert set(table) <= known, f"{set(table) - known} is neither of a data set nor of a plan"


def broken_links(page: Path) -> list[str]:
    """Links to files or headings that are not there."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^\s*```.*?^\s*```$", "", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file) if file else page
        if not other.exists() or (anchor and anchor not in _anchors(other)):
            wrong.append(target)
    return wrong


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def doctests(module_name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(module_name)
    return [t for t in doctest.DocTestFinder(exclude_empty=True).find(module, module_name) if t.examples]


def run_doctest(test: doctest.DocTest) -> str:
    """Run the examples of one docstring; return what failed."""
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    return "".join(report)


def modules() -> list[str]:
    found = pkgutil.walk_packages(medseg.__path__, "medseg.")
    return ["medseg", *(m.name for m in found if not m.name.endswith("__main__"))]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages find: ``cells/`` with images and labels, and ``run/``, a training of some steps."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for i in range(6):
        image, instances = medseg.phantoms.cells((96, 120), n=8 + i, rng=rng, diameter=14)
        medseg.write(np.round(image * 255).astype(np.uint8), folder / f"cells/images/cell_{i}.png")
        medseg.write(instances.astype(np.uint16), folder / f"cells/labels/cell_{i}.png")
    values = {
        "network.channels": (4, 8),
        "train.patch": (64, 64),
        "train.batch_size": 2,
        "train.steps": 8,
        "train.warmup_steps": 2,
        "train.lr": 1e-2,
        "train.validate_every": 4,
        "train.workers": 0,
    }
    plan = medseg.make_plan(folder / "cells").with_values(values, reason="small, for the pages")
    assert plan.target.kind == "instances"
    bundle = medseg.fit(plan, folder / "cells", folder / "run", device="cpu")
    from medseg.jobs import score_unseen
    from medseg.training import open_run

    score_unseen(open_run(folder / "run"), bundle)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder, which is the working directory."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    for name in ("run/split.json", "run/unseen/predictions.json"):  # they hold absolute paths
        file = tmp_path / name
        file.write_text(file.read_text().replace(str(prepared), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_is_of_a_known_kind_and_every_exception_gives_its_reason(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{_name(page)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: '{block.language}' is none of {sorted(LANGUAGES)}"
        if block.language == "python" and "not run" in block.comment:
            assert _reason_not_to_run(block), f"{where}: write <!-- not run: why -->"
        if block.language == "toml":
            check_toml(block.code)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")], ids=_name
)
def test_python_blocks_run(page: Path, folder: Path) -> None:
    run_python(page.read_text(encoding="utf-8"), _name(page))


@pytest.mark.parametrize("page", [p for p in PAGES if "```sh" in p.read_text(encoding="utf-8")], ids=_name)
def test_commands_exist(page: Path) -> None:
    for block, words in commands(page.read_text(encoding="utf-8")):
        try:
            check_command(words)
        except (UsageError, medseg.Refused) as error:
            pytest.fail(f"{_name(page)}:{block.line}: medseg {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "<!-- run -->" in p.read_text(encoding="utf-8")], ids=_name
)
def test_commands_run(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block, words in commands(page.read_text(encoding="utf-8")):
        if block.comment == "<!-- run -->":
            code = main(words)
            assert code == 0, f"medseg {' '.join(words)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    missing = [_name(p) for p in (ROOT / "docs").rglob("*.md") if p.name != "index.md"]
    missing = [m for m in missing if f"({m.removeprefix('docs/')})" not in index]
    assert missing == []


def test_the_readme_has_two_commands_for_a_fresh_machine() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    installing = [b for b in blocks(text) if b.language == "sh" and "pip install" in b.code]
    assert [len(b.code.splitlines()) for b in installing] == [1, 1]
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE))
    first = next(b for b in blocks(sections["Install and see"]) if b.language == "sh")
    last = [b for b in blocks(sections["Tests"]) if b.language == "sh"][-1]
    assert [first.code, last.code] == [b.code for b in installing]
    assert first.code.endswith("medseg demo")
    assert last.code.endswith("-m pytest")
    for name in re.findall(r"-c (\S+)", first.code + last.code):
        assert (ROOT / name).is_file()


def test_the_picture_of_the_readme_is_small() -> None:
    assert (ROOT / "docs/images/demo.png").stat().st_size < 200_000


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for test in doctests(name):
        skipped = any(doctest.SKIP in e.options for e in test.examples)
        assert skipped == (test.name in SKIPPED_DOCTESTS), f"{test.name}: give the reason to skip"
        failure = run_doctest(test)
        assert failure == "", failure


# the reference, compared with the code


def test_plan_reference_has_every_key_with_its_default() -> None:
    page = (ROOT / "docs/reference/plan.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_0-9]+)` \| `(.*?)` \|", page, flags=re.MULTILINE))
    plan = medseg.Plan()
    expected = {}
    for table in dataclasses.fields(plan):
        part = getattr(plan, table.name)
        if dataclasses.is_dataclass(part):
            for entry in dataclasses.fields(part):
                text = plan.to_toml().split(f"[{table.name}]")[1]
                match = re.search(rf"^{entry.name} = (.*)$", text, flags=re.MULTILINE)
                assert match
                expected[f"{table.name}.{entry.name}"] = match[1]
    assert rows == expected


def test_python_reference_has_every_public_name_with_its_parameters() -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    for name in medseg.__all__:
        thing = getattr(medseg, name)
        if inspect.isfunction(thing):
            assert f"### `medseg.{name}({parameters(thing)})`" in page
        else:
            assert re.search(rf"`medseg\.{name}[`(]", page), f"medseg.{name} is not in the reference"
    known = {"medseg." + n for n in medseg.__all__}
    for heading in re.findall(r"^### `(medseg\.\w+)", page, flags=re.MULTILINE):
        assert heading in known, f"{heading} is not public"


def parameters(function: Any) -> str:
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    text = str(inspect.Signature(bare))
    return text[1:-1].replace("'", '"')


def test_command_reference_has_every_command_and_option() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## `(medseg [^`]+?)`\n(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE)
    )
    expected = {
        f"medseg {' '.join(path)}": {
            o for p in command.params for o in p.opts + p.secondary_opts if o[:2] == "--"
        }
        for path, command in leaves(typer.main.get_command(app), ())
    }
    assert sections.keys() == expected.keys()
    for name, options in expected.items():
        table = set(re.findall(r"^\| `(--[a-z-]+)", sections[name], flags=re.MULTILINE))
        assert {o for o in options if not o.startswith("--no-")} == table, name


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from leaves(below, (*path, name))


def test_metrics_reference_has_every_metric() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `(\w+)`", page, flags=re.MULTILINE)) == set(medseg.metrics.METRICS)


def test_page_of_the_architecture_has_the_floors_that_are_tested() -> None:
    tree = ast.parse((ROOT / "tests/test_architecture.py").read_text(encoding="utf-8"))
    values = {n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign)}  # type: ignore[attr-defined]
    floors = {name: floor for name, floor in ast.literal_eval(values["FLOORS"]).items() if name != "__main__"}
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", page, flags=re.MULTILINE)
    assert {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)} == floors


def reason_codes(source: str) -> set[str]:
    """Codes of the refusals in a source text; what is only known when it runs becomes a star."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        name = getattr(getattr(node, "func", None), "id", "")
        if not isinstance(node, ast.Call) or name not in ("Refused", "refuse_unknown", "Failure"):
            continue
        place = 1 if name == "Failure" else 0
        prefix = "unknown-" if name == "refuse_unknown" else ""
        if len(node.args) > place:
            found |= {prefix + c.replace(" ", "-") for c in _texts(node.args[place])}
    return found


def _texts(node: ast.expr) -> set[str]:
    if isinstance(node, ast.IfExp):
        return _texts(node.body) | _texts(node.orelse)
    if isinstance(node, ast.JoinedStr):
        return {"".join(v.value if isinstance(v, ast.Constant) else "*" for v in node.values)}
    return {node.value} if isinstance(node, ast.Constant) else set()


def test_error_reference_has_every_reason_and_no_other() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", page, flags=re.MULTILINE))
    codes: set[str] = set()
    possible: set[str] = set()
    for file in (ROOT / "medseg").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        codes |= reason_codes(source)
        possible |= {f"unknown-{word}" for word in re.findall(r'"(\w+)"', source)}
    open_codes = {c for c in codes if "*" in c} - {"unknown-*"}  # refuse_unknown itself
    missing = {c for c in codes if "*" not in c} - listed
    assert missing == set(), "refused in the code and not in errors.md"
    for pattern in open_codes:
        assert fnmatch.filter(listed, pattern), f"no reason like {pattern} is in errors.md"
    # the kind of an unknown name may come from a table in the source
    unused = {c for c in listed - codes - possible if not any(fnmatch.fnmatch(c, p) for p in open_codes)}
    assert unused == set(), "in errors.md and refused nowhere"


def test_page_of_a_run_names_every_file(folder: Path) -> None:
    page = (ROOT / "docs/reference/run-folder.md").read_text(encoding="utf-8")
    for file in (folder / "run").rglob("*"):
        if file.is_file() and file.suffix != ".png":  # the maps have the names of the cases
            assert f"`{file.relative_to(folder / 'run').as_posix()}`" in page
    page = (ROOT / "docs/reference/bundle-format.md").read_text(encoding="utf-8")
    for file in (folder / "run/bundle").iterdir():
        assert f"`{file.name}`" in page


# the checkers themselves


def test_a_failing_block_is_noticed() -> None:
    page = "text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError):
        run_python(page, "page")
    assert run_python(page.replace("== 2", "== 1"), "page") == 2
    assert (
        run_python(page.replace("```python\nassert", "<!-- not run: it fails -->\n```python\nassert"), "p")
        == 1
    )


@pytest.mark.parametrize(
    "comment", ["<!-- not run -->", "<!-- not run: -->", "<!-- skip -->", "not run: slow"]
)
def test_a_block_without_a_reason_runs(comment: str) -> None:
    with pytest.raises(ZeroDivisionError):
        run_python(f"{comment}\n```python\n1 / 0\n```\n", "page")


def test_a_block_without_an_end_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no end"):
        blocks("```python\n1\n")


@pytest.mark.parametrize(
    "line",
    [
        "medseg predictt run a.png -o out",
        "medseg predict run a.png -o out --maxram 4",
        "medseg predict run a.png",
        "cd x && .venv/bin/medseg bundle verify run",
        "medseg train cells/ -o run train.learning_rate=1",
        "medseg train cells/ --fold two -o run",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    [(_, words)] = commands(f"```sh\n{line}\n```\n")
    with pytest.raises((UsageError, medseg.Refused)):
        check_command(words)


@pytest.mark.parametrize(
    "line",
    [
        "medseg demo",
        "medseg --debug predict run a.png b.png -o out --flips",
        "medseg bundle show run  # a comment",
        "medseg train cells/ -o run \\\n  train.lr=3e-4 network.norm=none",
        "medseg predict --help",
    ],
)
def test_a_right_command_is_not(line: str) -> None:
    [(_, words)] = commands(f"```sh\n{line}\n```\n")
    check_command(words)


def test_a_wrong_example_is_noticed() -> None:
    parser = doctest.DocTestParser()
    right, wrong = (parser.get_doctest(f">>> 1 + 1\n{n}\n", {}, "x", None, 0) for n in (2, 3))
    assert run_doctest(right) == ""
    assert "Expected" in run_doctest(wrong)


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Two words, here\n")
    page = tmp_path / "a.md"
    page.write_text(
        "[x](b.md#two-words-here) [y](b.md#three) [z](c.md) <img src='b.md'> [w](https://x.y/z)\n"
    )
    assert broken_links(page) == ["b.md#three", "c.md"]
    page.write_text("`[z](c.md)`\n\n```text\n[z](c.md)\n```\n")
    assert broken_links(page) == []


@pytest.mark.parametrize("text", ["[train]\nlearning_rate = 1", "[nonsense]\nx = 1", "case = 1"])
def test_wrong_toml_is_noticed(text: str) -> None:
    with pytest.raises((AssertionError, medseg.Refused)):
        check_toml(text)


def test_reason_codes_are_found() -> None:
    source = (
        "raise Refused('a-b' if x else 'c', 'text')\nraise refuse_unknown('plan key', k, n)\n"
        "raise Refused(f'{x}-without-{y}', 'text')\nFailure(name, 'unexpected', 'text')\n"
    )
    assert reason_codes(source) == {"a-b", "c", "unknown-plan-key", "*-without-*", "unexpected"}

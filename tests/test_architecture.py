"""The floors of the house, checked on the source text: nothing is imported, so it is quick."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "medseg"

# a file may import only from lower floors; files of one package may import each other, without circles
FLOORS = {
    "errors": 0,
    "version": 0,
    "bundle_files": 1,
    "files": 1,
    "scratch": 1,
    "strict": 1,
    "plan": 2,
    "tiling": 3,
    "targets": 3,
    "instances": 3,
    "measure": 3,
    "metrics": 3,
    "palettes": 3,
    "phantoms": 3,
    "networks": 5,
    "frames": 4,
    "tensors": 4,
    "losses": 4,
    "crf": 4,
    "io": 5,
    "dataset": 6,
    "bundle": 6,
    "transforms": 6,
    "report": 6,
    "chains": 7,
    "looks": 7,
    "planning": 8,
    "sampling": 8,
    "inference": 8,
    "evaluation": 8,
    "batch": 8,
    "training": 9,
    "jobs": 10,
    "radiology": 11,
    "pacs": 12,
    "demo": 11,
    "cli": 13,
    "__main__": 14,
}
# heavy library -> the lowest floor that may name it at the top of a module
HEAVY = {"torch": 4, "monai": 5, "dask": 8, "pynetdicom": 12}
# MONAI may be used inside functions from floor 3 up
HEAVY_INSIDE = {"torch": 4, "monai": 3, "dask": 8, "pynetdicom": 12}
FILE_LIBRARIES = {
    "nibabel",
    "SimpleITK",
    "tifffile",
    "imagecodecs",
    "PIL",
    "zarr",
    "h5py",
    "pydicom",
    "highdicom",
}
MAX_LINES = 400
MAX_PARAMETERS = 8
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "base"}


def unit(path: Path, root: Path) -> str:
    """Name on the floor plan: the module, or the package it lies in."""
    return path.relative_to(root).with_suffix("").parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str, bool]]:
    """Every import as (statement, absolute or dot-prefixed name, inside a function)."""
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            if node.module is None:
                for alias in node.names:
                    yield node, name + alias.name, id(node) in inside
            else:
                yield node, name, id(node) in inside


def absolute(name: str, path: Path, root: Path) -> str:
    """Turn a relative import into its dotted name below the root package."""
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    package = [root.name, *path.relative_to(root).parts[:-1]]
    return ".".join([*package[: len(package) - level + 1], name.lstrip(".")])


def violations(root: Path) -> list[str]:
    """All breaches of the floor plan below ``root``, one line each."""
    found = []
    edges: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root).as_posix()
        source = path.read_text()
        tree = ast.parse(source)
        if path.stem in VAGUE:
            found.append(f"{where}: a file's name says what is in it")
        if len(source.splitlines()) > MAX_LINES:
            found.append(f"{where}: {len(source.splitlines())} lines, at most {MAX_LINES}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                args = node.args
                names = [a.arg for a in args.posonlyargs + args.args + args.kwonlyargs]
                count = len([n for n in names if n not in ("self", "cls")])
                if count > MAX_PARAMETERS and not is_typer_command(node):
                    found.append(f"{where}: {node.name} has {count} parameters, at most {MAX_PARAMETERS}")
        if where == "__init__.py":
            continue  # the front door names every floor
        me = unit(path, root)
        if me not in FLOORS:
            found.append(f"{where}: has no floor; give it one in tests/test_architecture.py")
            continue
        for _, raw, inside in imports(tree):
            name = absolute(raw, path, root)
            top = name.split(".")[0]
            if top == root.name:
                other = name.split(".")[1] if "." in name else ""
                if other == me:
                    mine = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
                    edges.setdefault(mine, set()).add(name.split(".", 1)[1])
                elif other and FLOORS.get(other, 99) >= FLOORS[me]:
                    found.append(f"{where}: floor {FLOORS[me]} imports {other} on floor {FLOORS.get(other)}")
            allowed = (HEAVY_INSIDE if inside else HEAVY).get(top, 0)
            if FLOORS[me] < allowed:
                found.append(f"{where}: {top} belongs to floor {allowed} and up")
            if top in FILE_LIBRARIES and me != "io":
                found.append(f"{where}: {top} is a file library; only io uses it")
            if top in FILE_LIBRARIES and not inside:
                found.append(f"{where}: {top} is imported at the top; file libraries are imported where used")
    found += [
        f"{a} and {b} import each other" for a in edges for b in edges[a] if a in edges.get(b, ()) and a < b
    ]
    return found


def is_typer_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command's options are its parameters."""
    return any("app.command" in ast.unparse(d) for d in node.decorator_list)


def test_the_house_stands() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("targets.py", "from . import inference\n", "floor 3 imports inference"),
        ("targets.py", "from .instances import to_instances\n", "floor 3 imports instances"),
        ("io/raster.py", "from medseg.bundle import Bundle\n", "floor 5 imports bundle"),
        ("io/raster.py", "from ..training import fit\n", "floor 5 imports training"),
        ("plan.py", "def f():\n    import torch\n", "torch belongs to floor 4"),
        ("targets.py", "import monai\n", "monai belongs to floor 5"),
        ("dataset.py", "def f():\n    import tifffile\n", "tifffile is a file library"),
        ("io/raster.py", "import tifffile\n", "imported at the top"),
        ("plan.py", "x = 1\n" * 401, "401 lines"),
        ("plan.py", "def f(a, b, c, d, e, f, g, h, i): ...\n", "9 parameters"),
        ("io/utils.py", "x = 1\n", "says what is in it"),
        ("plans.py", "x = 1\n", "has no floor"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, source: str, message: str) -> None:
    root = tmp_path / "medseg"
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(source)
    assert any(message in line for line in violations(root))


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    root = tmp_path / "medseg"
    (root / "io").mkdir(parents=True)
    (root / "io" / "nifti.py").write_text("from ..errors import Refused\ndef f():\n    import nibabel\n")
    (root / "targets.py").write_text("def f():\n    from monai.data import MetaTensor\n")
    assert violations(root) == []

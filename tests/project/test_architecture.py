"""The layers of the package, read off its own import statements and the names of its folders.

A run-time import goes down or stays in its folder, inside functions too. Imports for type checkers alone may go
anywhere, but not from one edge into another.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "resumable"
MAX_LINES = 400

# Bottom up, one line a layer: the files and folders that lie directly in the package.
LAYERS: list[str] = [
    "errors extras protocols position verdict checks tables",
    "orders steps stopping",
    "saved randomness",
    "feeds progress",
    "data_sampler",
    "history forecast",
    "audit importers",
    "state",
    "loading",
    "loader adapters",
    "datamodule",
    "decorator",
    "__init__",
    "report testing",
    "demo",
    "cli",
    "__main__",
]
EDGES = {"cli", "demo", "report", "testing"}  # what a user runs; each framework in adapters/ is an edge too

# Imports of an edge from elsewhere that are meant. The wiring imports no trainer's file: `adapters` finds it by name.
INTO_EDGES = {
    ("__main__", "cli.main"),
    ("adapters.torchtitan", "adapters.torchdata"),
    ("cli.demo", "demo.main"),
    ("cli.demo", "demo.settings"),
    ("cli.plan", "report.plan_picture"),
    ("cli.report", "report.page"),
    ("cli.report", "report.timeline"),
    ("cli.report", "report.timeline_picture"),
    ("datamodule.attach", "adapters.torchdata"),
    ("demo", "report"),
    ("demo", "report.page"),
    ("demo", "report.picture"),
    ("demo", "report.table"),
    ("demo", "report.timeline"),
}

# Who may import what is neither ours nor Python's: a layer and all above it, or files and folders by name.
LOWEST = {"typing_extensions": "errors", "numpy": "orders"}
ONLY_IN = {
    "accelerate": {"adapters.accelerate"},
    "apex": {"adapters.apex"},
    "lightning": {"adapters.fabric", "adapters.lightning", "demo", "testing.with_lightning"},
    "matplotlib": {"demo", "report"},
    "megatron": {"adapters.megatron"},
    "plotly": {"report"},
    "pytest": {"testing.plugin"},
    "ray": {"adapters.ray"},
    "rich": {"cli", "demo", "report"},
    "torch": {
        "adapters",
        "data_sampler.cyclic_order",
        "datamodule",
        "demo",
        "feeds",
        "loader",
        "loading",
        "stopping.workers",
        "testing.with_lightning",
    },
    "torchdata": {"adapters.torchdata"},
    "tqdm": {"loading.stream_loader"},
    "transformers": {"adapters.transformers"},
}


@dataclass(frozen=True)
class Import:
    """One imported module: dotted from the package's root where it is ours, its top-level name where it is not."""

    importer: str
    target: str
    ours: bool
    for_typing: bool


def modules_of(package: Path) -> dict[str, Path]:
    """Every module below *package* by its dotted name; a package's `__init__` has the package's name."""
    found: dict[str, Path] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"] = path
    return found


def imports_of(importer: str, modules: dict[str, Path]) -> Iterator[Import]:
    """What *importer* imports: at its top, in functions, for typing, and by `import_module` with a literal name."""
    root, path = modules["__init__"].parent, modules[importer]
    package = ("resumable", *path.relative_to(root).parent.parts)

    def walk(node: ast.AST, for_typing: bool) -> Iterator[Import]:
        for dotted in imported_by(node, package, modules):
            top, _, rest = dotted.partition(".")
            ours = top == "resumable"
            yield Import(importer, (rest or "__init__") if ours else top, ours, for_typing)
        guarded = guarded_by_type_checking(node)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, for_typing or child in guarded)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def imported_by(node: ast.AST, package: tuple[str, ...], modules: dict[str, Path]) -> Iterator[str]:
    """The modules that one statement or call in *package* imports, by their full dotted names."""
    match node:
        case ast.Import(names=names):
            yield from (name.name for name in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package[: len(package) - level + 1] if level else ()
            base = ".".join([*above, *([module] if module else [])])
            for name in names:
                inner = f"{base}.{name.name}"
                yield inner if inner.removeprefix("resumable.") in modules else base
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            yield name
        case _:
            pass


def guarded_by_type_checking(node: ast.AST) -> list[ast.stmt]:
    """The statements that *node* keeps for type checkers alone."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), body=body):
            return body
        case _:
            return []


def layer_of(module: str) -> int | None:
    """The place of *module*'s file or folder in LAYERS, from 0 at the bottom; None where no line names it."""
    top = module.partition(".")[0]
    return next((at for at, names in enumerate(LAYERS) if top in names.split()), None)


def edge_of(module: str) -> str | None:
    """The edge that *module* belongs to. Each framework is one: adapters.lightning and adapters.lightning.hooks are."""
    top, _, inner = module.partition(".")
    if top == "adapters":
        return f"{top}.{inner.partition('.')[0]}" if inner else None  # what they share is no framework
    return top if top in EDGES else None


def complaint(found: Import) -> str | None:
    """What is wrong with an import, if anything is."""
    what = _of_ours(found) if found.ours else _of_others(found)
    return f"{found.importer} imports {found.target}{what}" if what else None


def _of_ours(found: Import) -> str | None:
    layer, goal = layer_of(found.importer), layer_of(found.target)
    if layer is None or goal is None:
        return ", which no line of LAYERS names"
    if goal > layer and not found.for_typing:
        return ", which lies above it"
    edge, other = edge_of(found.importer), edge_of(found.target)
    if other is None or edge == other:
        return None
    is_meant = {(edge, found.target), (found.importer, found.target)} & INTO_EDGES
    return None if is_meant or (edge is None and found.for_typing) else ", an edge that is not its own"


def _of_others(found: Import) -> str | None:
    if found.for_typing or found.target in sys.stdlib_module_names:
        return None
    if found.target in ONLY_IN:
        parts = found.importer.split(".")
        allowed = {".".join(parts[:end]) for end in range(1, len(parts) + 1)} & ONLY_IN[found.target]
        return None if allowed else f": only {' and '.join(sorted(ONLY_IN[found.target]))} may"
    if found.target not in LOWEST:
        return ", for which there is no rule: add one to LOWEST or ONLY_IN"
    layer, lowest = layer_of(found.importer), layer_of(LOWEST[found.target])
    allowed_here = layer is not None and lowest is not None and layer >= lowest
    return None if allowed_here else f": only {LOWEST[found.target]} and what lies above it may"


def complaints(package: Path) -> list[str]:
    """Everything in *package* that breaks a rule of this file, in words that say what to do."""
    modules = modules_of(package)
    said = [
        f"{module} lies in no layer: name its file or folder in one line of LAYERS in {Path(__file__).name}"
        for module in modules
        if layer_of(module) is None
    ]
    if said:
        return said
    for module, path in modules.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            said.append(f"{module} has {lines} lines, more than {MAX_LINES}: look for the second idea in it")
    found = [each for module in modules for each in imports_of(module, modules)]
    said += dict.fromkeys(text for each in found if (text := complaint(each)))
    return said + list(circles(modules, found))


def circles(modules: dict[str, Path], found: list[Import]) -> Iterator[str]:
    """The first circle among files, and the first among the package's files and folders."""
    for parts in (None, 1):
        graph: dict[str, set[str]] = {".".join(module.split(".")[:parts]): set() for module in modules}
        for each in found:
            importer, target = (".".join(module.split(".")[:parts]) for module in (each.importer, each.target))
            if each.ours and not each.for_typing and importer != target:
                graph[importer].add(target)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            yield "these import each other: " + " <- ".join(error.args[1])
            return


def test_imports_go_down_only() -> None:
    """Every module is in one layer, holds one idea's worth of lines, and imports downward only."""
    assert complaints(PACKAGE) == []


def test_the_tables_name_no_module_that_is_gone() -> None:
    """A name in LAYERS and INTO_EDGES is a file or folder of the package, so that the tables stay a map of it."""
    modules = modules_of(PACKAGE)
    tops = {module.partition(".")[0] for module in modules}
    named = [name for line in LAYERS for name in line.split()]
    assert sorted(set(named) - tops) == []
    assert sorted(name for name in named if named.count(name) > 1) == []
    assert sorted({target for _, target in INTO_EDGES} - modules.keys()) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"orders.orders": "import numpy\nfrom ..errors import explain"}, None, id="downward"),
        pytest.param(
            {"orders.orders": "from ..saved.ledger import Ledger"},
            "orders.orders imports saved.ledger, which lies above it",
            id="upward",
        ),
        pytest.param(
            {"orders.orders": "def f():\n    from resumable.saved import ledger"},
            "orders.orders imports saved.ledger, which lies above it",
            id="upward in a function",
        ),
        pytest.param(
            {"errors": "import importlib\nimportlib.import_module('resumable.orders.canary')", "orders.canary": ""},
            "errors imports orders.canary, which lies above it",
            id="upward by name",
        ),
        pytest.param(
            {"errors": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .saved.ledger import Ledger"},
            None,
            id="upward for typing",
        ),
        pytest.param(
            {
                "errors": "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    from .saved.ledger import Ledger"
            },
            "errors imports saved.ledger, which lies above it",
            id="upward at run time beside typing",
        ),
        pytest.param({"saved.ledger": "import torch.nn"}, "saved.ledger imports torch: only ", id="torch too low"),
        pytest.param({"errors": "import numpy"}, "errors imports numpy: only orders and what", id="NumPy too low"),
        pytest.param(
            {"loader": "import lightning"},
            "loader imports lightning: only adapters.fabric and adapters.lightning and demo and testing.with_lightning may",
            id="a framework outside its adapter",
        ),
        pytest.param(
            {"cli.main": "import yaml"},
            "cli.main imports yaml, for which there is no rule: add one to LOWEST or ONLY_IN",
            id="a new dependency",
        ),
        pytest.param(
            {"adapters.apex": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .megatron import tell"},
            "adapters.apex imports adapters.megatron, an edge that is not its own",
            id="from edge to edge, for typing",
        ),
        pytest.param(
            {"demo.text": "from resumable.testing import x", "testing.__init__": ""},
            "demo.text imports testing, an edge that is not its own",
            id="from edge to edge",
        ),
        pytest.param({"adapters.lightning.hooks": "from .ranks import x"}, None, id="inside one framework"),
        pytest.param(
            {"datamodule.attach": "def f():\n    from ..adapters import lightning", "adapters.lightning.__init__": ""},
            "datamodule.attach imports adapters.lightning, an edge that is not its own",
            id="wiring imports a framework's adapter",
        ),
        pytest.param(
            {"datamodule.attach": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..demo import text"},
            None,
            id="into an edge for typing",
        ),
        pytest.param(
            {"orders.orders": "from .permutation import x", "orders.permutation": "from .orders import y"},
            "these import each other: ",
            id="a circle of files",
        ),
        pytest.param(
            {
                "orders.orders": "from ..steps.stages import x",
                "steps.stages": "",
                "steps.plan": "from ..orders.canary import y",
                "orders.canary": "",
            },
            "these import each other: ",
            id="a circle of folders",
        ),
        pytest.param({"brand_new": ""}, "brand_new lies in no layer: name its file or folder", id="no layer"),
        pytest.param(
            {"loader": "\n" * (MAX_LINES + 1)},
            "loader has 401 lines, more than 400: look for the second idea in it",
            id="too long",
        ),
    ],
)
def test_each_rule_can_be_broken(files: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    """The rules above see what they forbid, and nothing else: one tiny package each."""
    there = ["__init__", "errors", "saved.ledger", "adapters.__init__", "adapters.lightning.ranks", "adapters.megatron"]
    for module, text in {**dict.fromkeys([*there, "demo.__init__", "demo.text"], ""), **files}.items():
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    said = complaints(tmp_path)
    assert [text[: len(expected or "")] for text in said] == ([expected] if expected else [])

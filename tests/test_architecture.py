"""The layers of the package, read off its own import statements.

    edges      adapters/*  cli  demo/*  report/*  testing/*     each for itself
    front      __init__                                  names alone, everything lazy
    wiring     decorator ── attach
    torch      lanes ── streams ── loader ── sampler     the lowest that import torch
    values     state ── standing ── saved ── ledger ── verdict
    pure ints  order ── permutation, batching,
               schedules ── step_grammar ── stages       NumPy at most
    words      extras ── errors  protocols               typing-extensions at most

A run-time import goes down or stays in its layer, inside functions too. Imports for type checkers alone
may go anywhere, but not from one edge into another.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "resumable"
MAX_LINES = 300

# Bottom up. A new module is added to the lowest layer that has all it imports at or below it.
LAYERS: dict[str, set[str]] = {
    "words": {"errors", "extras", "fork_server", "protocols"},
    "pure ints": {
        "batching",
        "calculator_schedule",
        "canary",
        "feasible",
        "network",
        "order",
        "permutation",
        "position",
        "rounding",
        "scheduled",
        "schedules",
        "splitmix",
        "stages",
        "step_grammar",
    },
    "values": {
        "access",
        "calculators",
        "counts",
        "cursor",
        "fields",
        "frontier",
        "ledger",
        "placed_sampler",
        "policy",
        "preemption",
        "recorded",
        "records",
        "sampler_frontier",
        "saved",
        "stand_ins",
        "standing",
        "state",
        "statefile",
        "statetext",
        "step_watch",
        "verdict",
    },
    "torch": {
        "agreement",
        "arguments",
        "feeds",
        "lanes",
        "loader",
        "replay",
        "resuming",
        "sampler",
        "shards",
        "sharing",
        "shielded",
        "streams",
    },
    "wiring": {"attach", "class_checks", "decorator"},
    "front": {"__init__"},
    "edges": {"__main__", "adapters", "cli", "demo", "mypy_plugin", "report", "testing"},  # with everything in them
}
ORDER = list(LAYERS)

# Imports into an edge that are meant. From wiring they stand inside a function: nobody pays for a framework unused.
INTO_EDGES = {
    ("attach", "adapters.lightning"),
    ("calculators", "adapters.apex"),
    ("calculators", "adapters.megatron"),
    ("__main__", "cli"),
    ("cli", "demo.main"),
    ("cli", "demo.settings"),
    ("demo", "report"),
    ("demo", "report.picture"),
    ("demo", "report.table"),
}

# Who may import what is neither ours nor Python's: a layer and all above it, or single modules and edges.
LOWEST_LAYER = {"typing_extensions": "words", "numpy": "pure ints", "torch": "torch"}
ONLY_IN = {
    "apex": {"adapters.apex"},
    "lightning": {"adapters.lightning", "demo"},
    "matplotlib": {"demo", "report"},
    "megatron": {"adapters.megatron"},
    "mypy": {"mypy_plugin"},
    "rich": {"cli", "demo", "report"},
    "torchdata": {"streams"},
    "tqdm": {"streams"},
}


@dataclass(frozen=True)
class Import:
    """One imported module: dotted from the package's root where it is ours, its top-level name where it is not."""

    importer: str
    target: str
    ours: bool
    for_typing: bool
    in_function: bool


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

    def walk(node: ast.AST, for_typing: bool, in_function: bool) -> Iterator[Import]:
        for dotted in imported_by(node, package, modules):
            top, _, rest = dotted.partition(".")
            ours = top == "resumable"
            yield Import(importer, (rest or "__init__") if ours else top, ours, for_typing, in_function)
        guarded = guarded_by_type_checking(node)
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, for_typing or child in guarded, in_function)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


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


def layers_of(module: str) -> list[str]:
    """The layers that claim *module*: one, where all is well."""
    top = module.partition(".")[0]
    return [layer for layer, names in LAYERS.items() if (top if layer == "edges" else module) in names]


def edge_of(module: str) -> str | None:
    """The edge that *module* belongs to. Each framework is one: adapters.lightning and adapters.lightning.loops are."""
    if layers_of(module) != ["edges"]:
        return None
    top = module.partition(".")[0]
    return ".".join(module.split(".")[:2]) if top == "adapters" else top


def complaint(found: Import) -> str | None:
    """What is wrong with an import, if anything is."""
    said = f"{found.importer} imports {found.target}"
    what = _of_ours(found) if found.ours else _of_others(found)
    return said + what if what else None


def _of_ours(found: Import) -> str | None:
    (layer,) = layers_of(found.importer)
    if not (goal := layers_of(found.target)):
        return ", which is in no layer"
    edge, other = edge_of(found.importer), edge_of(found.target)
    if other is None or edge == other:
        upward = ORDER.index(goal[0]) > ORDER.index(layer)
        return f", which lies above it: {layer} may not import {goal[0]}" if upward and not found.for_typing else None
    if edge is None and (found.for_typing or (found.importer, found.target) in INTO_EDGES):
        at_once = not (found.for_typing or found.in_function)
        return " when it is imported: do it inside a function" if at_once else None
    return None if (edge, found.target) in INTO_EDGES else ", an edge that is not its own"


def _of_others(found: Import) -> str | None:
    if found.for_typing or found.target in sys.stdlib_module_names:
        return None
    if found.target in ONLY_IN:
        allowed = (edge_of(found.importer) or found.importer) in ONLY_IN[found.target]
        return None if allowed else f": only {' and '.join(sorted(ONLY_IN[found.target]))} may"
    if found.target not in LOWEST_LAYER:
        return ", for which there is no rule: add one to LOWEST_LAYER or ONLY_IN"
    (layer,), lowest = layers_of(found.importer), LOWEST_LAYER[found.target]
    allowed = ORDER.index(layer) >= ORDER.index(lowest)
    return None if allowed else f": only the layers from {lowest} upward may"


def complaints(package: Path) -> list[str]:
    """Everything in *package* that breaks a rule of this file, in words that say what to do."""
    modules = modules_of(package)
    said = [
        f"{module} is in {layers_of(module) or 'no layer'}: name it in one set of LAYERS in tests/test_architecture.py"
        for module in modules
        if len(layers_of(module)) != 1
    ]
    if said:
        return said
    for module, path in modules.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            said.append(f"{module} has {lines} lines, more than {MAX_LINES}: look for the second idea in it")
    found = [each for module in modules for each in imports_of(module, modules)]
    said += dict.fromkeys(text for each in found if (text := complaint(each)))
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for each in found:
        if each.ours and not each.for_typing and each.target != each.importer:
            graph[each.importer].add(each.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        said.append("these import each other: " + " <- ".join(error.args[1]))
    return said


def test_imports_go_down_only() -> None:
    """Every module is in one layer, holds one idea's worth of lines, and imports downward only."""
    assert complaints(PACKAGE) == []


def test_the_tables_name_no_module_that_is_gone() -> None:
    """A name in LAYERS and INTO_EDGES is a module of the package, so that the tables stay a map of what is there."""
    named = {name for layer, names in LAYERS.items() if layer != "edges" for name in names}
    named |= {target for _, target in INTO_EDGES}
    assert sorted(named - modules_of(PACKAGE).keys()) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"order": "import numpy\nfrom .errors import explain"}, None, id="downward"),
        pytest.param(
            {"order": "from .ledger import Ledger"},
            "order imports ledger, which lies above it: pure ints may not import values",
            id="upward",
        ),
        pytest.param(
            {"order": "def f():\n    from resumable import ledger"},
            "order imports ledger, which lies above it: pure ints may not import values",
            id="upward in a function",
        ),
        pytest.param(
            {"errors": "import importlib\nimportlib.import_module('resumable.order')"},
            "errors imports order, which lies above it: words may not import pure ints",
            id="upward by name",
        ),
        pytest.param(
            {"errors": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .ledger import Ledger"},
            None,
            id="upward for typing",
        ),
        pytest.param(
            {"errors": "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    from .ledger import Ledger"},
            "errors imports ledger, which lies above it: words may not import values",
            id="upward at run time beside typing",
        ),
        pytest.param(
            {"ledger": "import torch.nn"},
            "ledger imports torch: only the layers from torch upward may",
            id="torch too low",
        ),
        pytest.param(
            {"attach": "import lightning"},
            "attach imports lightning: only adapters.lightning and demo may",
            id="a framework outside its adapter",
        ),
        pytest.param(
            {"cli": "import yaml"},
            "cli imports yaml, for which there is no rule: add one to LOWEST_LAYER or ONLY_IN",
            id="a new dependency",
        ),
        pytest.param(
            {"adapters.apex": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .megatron import tell"},
            "adapters.apex imports adapters.megatron, an edge that is not its own",
            id="from edge to edge, for typing",
        ),
        pytest.param({"adapters.lightning.loops": "from .frontier import x"}, None, id="inside one framework"),
        pytest.param(
            {"attach": "from .adapters import lightning"},
            "attach imports adapters.lightning when it is imported: do it inside a function",
            id="wiring imports an adapter at once",
        ),
        pytest.param({"attach": "def f():\n    from .adapters import lightning"}, None, id="wiring, on need"),
        pytest.param(
            {"order": "from .permutation import x", "permutation": "from .order import y"},
            "these import each other: ",
            id="a circle",
        ),
        pytest.param(
            {"brand_new": ""},
            "brand_new is in no layer: name it in one set of LAYERS in tests/test_architecture.py",
            id="no layer",
        ),
        pytest.param(
            {"order": "\n" * (MAX_LINES + 1)},
            "order has 301 lines, more than 300: look for the second idea in it",
            id="too long",
        ),
    ],
)
def test_each_rule_can_be_broken(files: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    """The rules above see what they forbid, and nothing else: one tiny package each."""
    there = ["__init__", "errors", "ledger", "adapters.__init__", "adapters.lightning", "adapters.megatron"]
    for module, text in {**dict.fromkeys([*there, "demo.__init__", "demo.text"], ""), **files}.items():
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    said = complaints(tmp_path)
    assert [text[: len(expected or "")] for text in said] == ([expected] if expected else [])

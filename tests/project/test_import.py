"""What an import costs: the names are there at once, the libraries behind them come on first use."""

# pyright: reportPrivateUsage=false
# (the table of names is private, and compared with the public list)

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import pytest

import resumable
from resumable import DecorationError, MissingExtraError, adapters, errors
from resumable.extras import naming_the_extra

HOME: dict[str, str] = vars(resumable)["_HOME"]  # type checkers see the imports in its place
NAMES: list[str] = vars(resumable)["__all__"]
HEAVY = ["apex", "hypothesis", "lightning", "matplotlib", "megatron", "numpy", "pytorch_lightning", "rich", "torch"]


def loaded_after(code: str) -> list[str]:
    """Which of the heavy libraries a fresh interpreter holds after *code*."""
    report = f"{code}\nimport sys\nprint(*sorted({set(HEAVY)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_importing_the_package_loads_no_library() -> None:
    """`import resumable` and looking at what it offers bring nothing but Python's own modules."""
    assert loaded_after("import resumable; dir(resumable); resumable.__all__") == []


def test_words_load_no_library() -> None:
    """Errors and Protocols are there for everyone, at no cost."""
    assert loaded_after("from resumable import DataSampler, Order, ResumptionError, Trainer") == []


def test_orders_load_numpy_alone() -> None:
    """An order is usable where torch is not wanted."""
    assert loaded_after("from resumable import Shuffled; Shuffled(7).indices(0, 0, 3)") == ["numpy"]


def test_the_loader_loads_no_framework() -> None:
    """A loop of one's own pays for torch, not for Lightning or Megatron."""
    assert loaded_after("from resumable import ResumableLoader") == ["numpy", "torch"]


def test_decorating_a_class_loads_no_framework() -> None:
    """Decorating a class brings nothing: torch comes with its first loader, Lightning where its trainer is Lightning's."""
    code = """
from resumable import is_resumable, resumable
@resumable
class Plain:
    trainer = None
    def train_dataloader(self):
        return []
assert is_resumable(Plain())
"""
    assert loaded_after(code) == []


def test_type_checkers_and_the_run_time_see_the_same_names() -> None:
    """The imports that type checkers see bring the public names from the modules that the table names, as exports."""
    (guarded,) = [node for node in ast.parse(Path(resumable.__file__).read_text()).body if _is_for_typing(node)]
    seen = {
        (name.asname, name.name): node.module
        for statement in guarded.body
        for node in ast.walk(statement)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == {(name, name): module for name, module in HOME.items()}


def _is_for_typing(node: ast.stmt) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_resolves(name: str) -> None:
    """Each public name is what its module defines under that name, and is listed by `dir`."""
    home = import_module(f"resumable.{HOME[name]}")
    assert getattr(home, name) is getattr(resumable, name)
    assert name in dir(resumable)


def test_the_version_is_that_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """`__version__` is what is installed, or says that nothing is."""
    installed = {"resumable-training": "1.2.3"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert "__version__" in dir(resumable)
    for expected in ("1.2.3", "(not installed: run from its source)"):
        monkeypatch.delitem(vars(resumable), "__version__", raising=False)
        assert expected == resumable.__version__
        installed.clear()
    monkeypatch.delitem(vars(resumable), "__version__")


@pytest.mark.parametrize("options", [{}, {"seed": 1}], ids=["bare", "with options"])
def test_the_module_in_the_decorators_place_says_what_to_import(options: dict[str, Any]) -> None:
    """`import resumable; @resumable` names the import that gives the decorator."""
    module: Any = resumable
    with pytest.raises(DecorationError) as caught:
        module(**options) if options else module(object)
    assert str(caught.value) == (
        "@resumable is the module here, not the decorator.\n"
        "  imported by: 'import resumable'\n"
        "Write: from resumable import resumable"
    )


def test_a_misspelt_name_is_an_attribute_error() -> None:
    """What the package does not have, it says as any module does."""
    with pytest.raises(AttributeError, match="module 'resumable' has no attribute 'Shufled'"):
        _ = resumable.Shufled  # type: ignore[attr-defined]  # misspelt on purpose


def test_a_missing_framework_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter whose framework is not installed says what to install, and is an ImportError as well."""
    (tmp_path / "standin.py").write_text("import megatron.core")
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path)])
    monkeypatch.setitem(sys.modules, "megatron.core", None)
    monkeypatch.setitem(sys.modules, "megatron", ModuleType("megatron"))
    with pytest.raises(ImportError) as caught:
        getattr(adapters, "standin")  # noqa: B009  # what `from resumable.adapters import standin` does first
    assert (type(caught.value), str(caught.value)) == (
        MissingExtraError,
        "megatron is not installed.\n"
        "  needed: 'megatron.core'\n"
        "  extra:  'megatron'\n"
        'Run: pip install "resumable-training[megatron]"',
    )


@pytest.mark.parametrize(
    ("package", "module", "needed", "extra"),
    [
        ("lightning", "resumable.demo.session", "lightning.pytorch", "lightning"),
        ("matplotlib", "resumable.report.picture", "matplotlib.colors", "report"),
        ("megatron", "resumable.adapters.megatron", "megatron.core.num_microbatches_calculator", "megatron"),
        ("rich", "resumable.report.table", "rich.box", "demo"),
    ],
)
def test_each_optional_package_names_its_extra(
    package: str, module: str, needed: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of ours needs an optional package: where that is missing, the message says which extra brings it."""
    monkeypatch.setitem(sys.modules, needed, None)
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingExtraError) as caught, naming_the_extra():
        import_module(module)
    assert str(caught.value) == (
        f"{package} is not installed.\n  needed: '{needed}'\n  extra:  '{extra}'\n"
        f'Run: pip install "resumable-training[{extra}]"'
    )


def test_the_adapters_have_the_error_and_its_maker() -> None:
    """Where an adapter is imported from, what it may raise is there too."""
    assert (adapters.MissingExtraError, adapters.naming_the_extra) == (errors.MissingExtraError, naming_the_extra)


def test_another_missing_module_passes_as_it_is() -> None:
    """Only what an extra of ours installs is renamed: a bug in the user's environment keeps its own error."""
    error = ModuleNotFoundError("No module named 'yaml'", name="yaml")
    with pytest.raises(ModuleNotFoundError) as caught, naming_the_extra():
        raise error
    assert caught.value is error


def test_the_error_survives_pickling() -> None:
    """Workers send their errors to the parent."""
    error = MissingExtraError("rich is not installed.", name="rich")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.name) == (MissingExtraError, "rich is not installed.", "rich")

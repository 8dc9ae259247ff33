"""The tests mirror the package: a module's tests are where its name says, or where a table here says."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400

ELSEWHERE = {
    "adapters/accelerate/test_runs.py": "adapters/accelerate loading/prepared",
    "adapters/distributed/test_chains.py": "adapters/lightning/counters",
    "adapters/distributed/test_ranks.py": "adapters/distributed adapters/device_mesh adapters/lightning/ranks",
    "adapters/bionemo/test_runs.py": "adapters/bionemo",
    "adapters/fabric/test_runs.py": "adapters/fabric",
    "adapters/lightning/test_cut_points.py": "adapters/lightning/progress adapters/lightning/hooks",
    "adapters/lightning/test_handed.py": "feeds/rank_sampler loading/loop_passes loading/trainer_loops "
    "loading/trainers",
    "adapters/lightning/test_loaders.py": "adapters/lightning/placement adapters/lightning/samplers "
    "adapters/lightning/several_loaders",
    "adapters/lightning/test_several_fits.py": "adapters/lightning/restart",
    "adapters/lightning/test_streams.py": "adapters/torchdata loading/stream_loader loading/stream_numbers",
    "adapters/lightning/test_stream_states.py": "loading/stream_state",
    "adapters/torchtitan/test_runs.py": "adapters/torchtitan loading/loop_stream",
    "adapters/megatron/test_loaders.py": "adapters/megatron/orders",
    "adapters/ray/test_workers.py": "adapters/ray",
    "adapters/transformers/test_runs.py": "adapters/transformers loading/prepared",
    "audit/test_records.py": "saved/audit_log",
    "importers/test_read.py": "importers/accelerate importers/dcp importers/found importers/lightning "
    "importers/megatron_bridge importers/megatron_lm importers/nemo importers/state_file importers/torch_file "
    "importers/torchdata importers/transformers",
    "cli/test_main.py": "cli/demo extras",
    "cli/test_plan.py": "report/plan_picture",
    "test_history_of_trainers.py": "data_sampler/cyclic_order",
    "cli/test_output.py": "tables",
    "data_sampler/test_progress.py": "data_sampler/options data_sampler/written",
    "data_sampler/test_ramps.py": "data_sampler/sampler_hooks adapters/lightning/data_sampler_progress",
    "datamodule/test_class.py": "decorator datamodule/methods datamodule/instance",
    "datamodule/test_loop.py": "datamodule/attach",
    "datamodule/test_refusals.py": "datamodule/options datamodule/trainer",
    "feeds/test_drawn.py": "feeds/sampler_feeds",
    "feeds/test_order_feed.py": "feeds/feed",
    "loading/test_dataloader.py": "loading/map_loader",
    "loading/test_loop_progress.py": "loading/counted",
    "orders/test_orders.py": "orders/identity",
    "orders/test_permutation.py": "orders/network orders/splitmix",
    "project/test_typing.py": "protocols",
    "testing/test_grid.py": "testing/bench testing/loops testing/matrix testing/sessions",
    "testing/test_protocol_checks.py": "testing/seeds",
    "cli/test_which.py": "cli/states",
    "cli/test_report.py": "report/timeline_picture",
    "report/test_report.py": "report/picture report/runs report/table",
    "runs/test_demo.py": "demo/arms demo/history demo/main demo/model demo/session demo/settings demo/text",
    "saved/test_file.py": "errors",
    "saved/test_ledger.py": "saved/schedule_format",
    "saved/test_resolve.py": "verdict",
    "steps/test_batch_plan.py": "position",
    "steps/test_schedules.py": "steps/stages",
}
"""The modules that are tested in no file `FOLDER/test_MODULE.py`, by the file that tests them most."""


def has_code(path: Path) -> bool:
    """Whether *path* defines a function or a class."""
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.parse(path.read_text("utf-8")).body)


def place_of(module: Path) -> Path:
    """Where the tests of *module* are by its name, both from the project's root: a package's are those of its folder."""
    folder = Path("tests", *module.parts[1:-1])
    return folder if module.stem == "__init__" else folder / f"test_{module.stem}.py"


def complaints(root: Path, elsewhere: dict[str, str]) -> Iterator[str]:
    """What is not where it should be below *root*, and what *elsewhere* says too much."""
    named = {module: tests for tests, modules in elsewhere.items() for module in modules.split()}
    modules = [path.relative_to(root) for path in sorted(root.glob("resumable/**/*.py")) if has_code(path)]
    for module in modules:
        other = named.pop(module.relative_to("resumable").with_suffix("").as_posix(), None)
        if (root / place_of(module)).exists() == (other is not None):
            yield f"{module} has {'its own tests, and others' if other else 'no tests'}: {other or place_of(module)}"
    yield from (f"{module} is not there" for module in named)
    yield from (f"{tests} is not there" for tests in elsewhere if not (root / "tests" / tests).exists())
    for path in sorted(root.glob("tests/**/test_*.py")):
        text = path.read_text("utf-8")
        lines = len(text.splitlines())
        if lines > MAX_LINES:
            yield f"{path.name} has {lines} lines, more than {MAX_LINES}: look for the second idea in it"
        tests = Counter(node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
        yield from (f"{path.name} has {name} twice" for name, times in tests.items() if times > 1)


def test_each_module_has_its_tests() -> None:
    """Each module with code is tested in the folder of its name or where ELSEWHERE says; no test file is long."""
    assert list(complaints(ROOT, ELSEWHERE)) == []


@pytest.mark.parametrize(
    ("files", "elsewhere", "expected"),
    [
        pytest.param({"tests/orders/test_order.py": ""}, {}, [], id="where its name says"),
        pytest.param(
            {}, {}, ["resumable/orders/order.py has no tests: tests/orders/test_order.py"], id="a module without tests"
        ),
        pytest.param({"tests/test_all.py": ""}, {"test_all.py": "orders/order"}, [], id="where the table says"),
        pytest.param({}, {"test_all.py": "orders/order"}, ["test_all.py is not there"], id="a file that is gone"),
        pytest.param(
            {"tests/orders/test_order.py": ""},
            {"orders/test_order.py": "orders/order"},
            ["resumable/orders/order.py has its own tests, and others: orders/test_order.py"],
            id="a needless line",
        ),
        pytest.param(
            {"tests/orders/test_order.py": "", "tests/test_all.py": ""},
            {"test_all.py": "orders/gone"},
            ["orders/gone is not there"],
            id="a module that is gone",
        ),
        pytest.param(
            {"tests/orders/test_order.py": "\n" * (MAX_LINES + 1)},
            {},
            ["test_order.py has 401 lines, more than 400: look for the second idea in it"],
            id="too long",
        ),
        pytest.param(
            {"tests/orders/test_order.py": "def test_a(): ...\ndef test_a(): ...\n"},
            {},
            ["test_order.py has test_a twice"],
            id="a name twice",
        ),
    ],
)
def test_each_rule_can_be_broken(
    files: dict[str, str], elsewhere: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    """The rules above see what they forbid, and nothing else."""
    for name, text in {"resumable/orders/order.py": "def order(): ...", "resumable/__init__.py": "", **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert list(complaints(tmp_path, elsewhere)) == expected


_PACKAGE = Path(__file__).parents[2] / "resumable"


def test_each_folder_lists_its_files() -> None:
    """The docstring of a folder names every file in it, as the README says; adapters/ lists what they export instead."""
    unnamed = [
        str(path.relative_to(_PACKAGE))
        for path in sorted(_PACKAGE.glob("*/**/*.py"))
        if path.name != "__init__.py"
        and path.parent != _PACKAGE / "adapters"
        and not re.search(rf"\b{path.stem}\b", ast.get_docstring(parsed(path.with_name("__init__.py"))) or "")
    ]
    assert [] == unnamed


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))

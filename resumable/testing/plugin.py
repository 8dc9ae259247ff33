"""The pytest plugin: a fixture `check_resume`, and `--resumable-json PATH` for the matrices of the session.

    def test_my_data_resumes_exactly(check_resume):
        check_resume(MyData)

pytest loads it where this package is installed, and it loads nothing else until the fixture is asked for.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from resumable.testing.matrix import Matrix

__all__ = ["ResumeCheck"]

_MATRICES: Final = "resumable_matrices"


class ResumeCheck:
    """`resumable.testing.check_resume` as a fixture: a test fails where a run is not exact, and is skipped without an extra."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def __call__(self, make: Any, /, *, must_be_exact: bool = True, **options: Any) -> Matrix:
        """The matrix of *make*; *options* are those of `check_resume`.

        With *must_be_exact*, the test fails unless all is exact.
        """
        from resumable.errors import MissingExtraError
        from resumable.testing.grid import check_resume

        __tracebackhide__ = True
        try:
            matrix = check_resume(make, **options)
        except MissingExtraError as error:
            pytest.skip(str(error))
        told = {"test": self._node.nodeid, **json.loads(matrix.to_json())}
        self._node.user_properties.append((_MATRICES, told))
        if must_be_exact and not matrix.is_exact:
            pytest.fail(str(matrix), pytrace=False)
        return matrix


class _Collected:
    """Writes the matrices of all tests, also of those that other processes of pytest-xdist ran."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._matrices: list[Any] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._matrices += [value for name, value in report.user_properties if name == _MATRICES]

    def pytest_sessionfinish(self) -> None:
        with open(self._path, "w", encoding="utf-8") as file:
            json.dump({"matrices": self._matrices}, file, indent=2)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--resumable-json`."""
    group = parser.getgroup("resumable", "resumable: prove that data resume exactly")
    group.addoption("--resumable-json", metavar="PATH", help="write the matrices of check_resume to this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the matrices, in the process that reports the tests."""
    path: str | None = config.getoption("--resumable-json")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Collected(path), "resumable-json")


@pytest.fixture
def check_resume(request: pytest.FixtureRequest) -> ResumeCheck:
    """`check_resume(make, ...)`: stop and resume what *make* makes at every place, and fail unless that is exact."""
    return ResumeCheck(request.node)

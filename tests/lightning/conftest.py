"""Assertions in the harness are explained as those in tests are."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.lightning.harness", "tests.lightning.cuts")

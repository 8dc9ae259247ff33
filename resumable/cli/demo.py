"""The command `resumable demo`."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from typing import Final

from resumable.errors import ConfigurationError, MissingExtraError
from resumable.extras import naming_the_extra

_DEMO_NEEDS: Final = ("lightning", "matplotlib", "rich")
_WRONG_USE: Final = 2  # what argparse gives too


def _demo(arguments: argparse.Namespace) -> int:
    missing = [name for name in _DEMO_NEEDS if find_spec(name) is None]
    if missing:
        print(f"The demo needs what is not installed: {', '.join(missing)}.", file=sys.stderr)
        print('Install it with: pip install "resumable-training[demo]"', file=sys.stderr)
        return _WRONG_USE
    try:
        with naming_the_extra():  # a folder of that name passes for the package, up to here
            from resumable.demo.main import run_demo
            from resumable.demo.settings import Settings
        settings = Settings(seed=arguments.seed, kills=arguments.kills)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ConfigurationError, MissingExtraError, OSError) as error:
        print(error, file=sys.stderr)
        return _WRONG_USE
    return run_demo(settings, arguments.out)

"""`python -m resumable`, the same as the console script `resumable`."""

from __future__ import annotations

import sys

from resumable.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

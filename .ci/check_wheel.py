"""Look into the wheel: the package is whole, nothing else is in it, and an index can show its README.

Run it: python .ci/check_wheel.py FOLDER
"""

from __future__ import annotations

import email
import re
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]


def faults(wheel: Path) -> list[str]:
    """What is wrong with *wheel*, one line a fault."""
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        message = email.message_from_string(archive.read(metadata).decode("utf-8"))
    held = {name for name in names if ".dist-info/" not in name}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "resumable").rglob("*.py")} | {"resumable/py.typed"}
    text = str(message.get_payload())
    relative = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link and link[0] != "#"]
    return [
        *(f"missing: {name}" for name in sorted(package - held)),
        *(f"does not belong: {name}" for name in sorted(held - package)),
        *(f"the README's link is relative: {link}" for link in relative),
        *(f"no {field} in the metadata" for field in ("License-Expression", "Author") if field not in message),
    ]


def main() -> int:
    """Print what is wrong with the one wheel in the folder; 1 where anything is."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    found = faults(wheel)
    print("\n".join(found) or f"{wheel.name}: whole")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

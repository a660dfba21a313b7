"""Pack a package into one executable file whose bytes depend on its sources alone.

Called as: build_agent.py PACKAGE_DIRECTORY TARGET. Prints `built` or `unchanged`.
"""

import io
import os
import sys
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/python3\n"
MAIN = "import sys\n\nfrom {package}.main import run\n\nsys.exit(run())\n"


def pack(package: Path) -> bytes:
    """Return the file: stored, not deflated, with fixed times, so that every control node makes the same bytes."""
    entries = {"__main__.py": MAIN.format(package=package.name).encode()}
    for source in sorted(package.rglob("*.py")):
        entries[source.relative_to(package.parent).as_posix()] = source.read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for name, content in entries.items():
            out.writestr(zipfile.ZipInfo(name), content)
    return SHEBANG + archive.getvalue()


def write(target: Path, content: bytes) -> bool:
    """Write `content` to `target` unless it is there already; whole or not at all."""
    if target.is_file() and target.read_bytes() == content:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.replace(target)
    return True


if __name__ == "__main__":
    built = write(Path(sys.argv[2]), pack(Path(sys.argv[1]).resolve()))
    sys.stdout.write("built" if built else "unchanged")

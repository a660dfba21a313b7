"""Pack packages into one executable file whose bytes depend on their sources alone.

Called as: build_agent.py TARGET PACKAGE_DIRECTORY..., the one with `main` first. Prints `built` or `unchanged`.
"""

import io
import os
import sys
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/python3\n"
MAIN = "import sys\n\nfrom {package}.main import run\n\nsys.exit(run())\n"


def pack(package: Path, *beside: Path) -> bytes:
    """Return the file: stored, not deflated, with fixed times, so that every control node makes the same bytes."""
    entries = {"__main__.py": MAIN.format(package=package.name).encode()}
    for each in (package, *beside):
        for source in sorted(each.rglob("*.py")):
            entries[source.relative_to(each.parent).as_posix()] = source.read_bytes()
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
    built = write(Path(sys.argv[1]), pack(*(Path(word).resolve() for word in sys.argv[2:])))
    sys.stdout.write("built" if built else "unchanged")

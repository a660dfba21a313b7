"""Where vacuums keep archives besides today's destination, so that one that was killed there is not forgotten."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "places.json"


class Places:
    """A list of stores' URLs that outlives the process; to be changed with the lock held."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the engine's state directory."""
        self._file = directory / _FILE

    def known(self) -> list[str]:
        """Return the stores in which a vacuum began and was not seen to end; raises ValueError if damaged."""
        try:
            found: list[str] = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return found

    def remember(self, url: str) -> None:
        """Add a store."""
        self._write({*self.known(), url})

    def forget(self, url: str) -> None:
        """Leave a store out: nothing of a killed vacuum is there."""
        if url in self.known():
            self._write({*self.known()} - {url})

    def _write(self, urls: set[str]) -> None:
        partial = self._file.with_name(f".{_FILE}.{os.getpid()}")
        partial.write_text(json.dumps(sorted(urls)) + "\n", encoding="utf-8")
        partial.replace(self._file)

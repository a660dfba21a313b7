"""Says on stderr which step runs and how long each took; on a terminal with a spinner."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.text import Text

from ops_cli.console.tables import console


class Steps:
    """The steps of one command."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._started = time.monotonic()
        self._status = self._console.status("") if self._console.is_terminal else None

    @contextmanager
    def shown(self) -> Iterator["Steps"]:
        """Show what is done now for as long as the block runs."""
        if self._status:
            self._status.start()
        try:
            yield self
        finally:
            self.rest()

    def rest(self) -> None:
        """Stop the spinner: somebody is about to be asked."""
        if self._status:
            self._status.stop()

    def now(self, text: str) -> None:
        """Say what begins."""
        if self._status:
            self._status.update(Text(text))
            self._status.start()
        else:
            self._console.print(f"{time.monotonic() - self._started:6.1f} s  {text}", soft_wrap=True)

    def note(self, text: str) -> None:
        """Leave a line that stays."""
        self._console.print(text, soft_wrap=True)

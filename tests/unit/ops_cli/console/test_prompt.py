import io

import pytest

from ops_cli.console import prompt
from ops_cli.console.errors import OpsError, UsageError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("env", "typed"), [("lab", "y"), ("lab", "Y "), ("production", "production")])
def test_confirm_goes_on_when_the_word_is_typed(monkeypatch: pytest.MonkeyPatch, env: str, typed: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(f"{typed}\n"))
    prompt.confirm("The scheduler moves.", env, yes=False)


@pytest.mark.parametrize(("env", "typed"), [("lab", "n"), ("lab", ""), ("production", "y")])
def test_confirm_raises_when_another_word_is_typed(monkeypatch: pytest.MonkeyPatch, env: str, typed: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(f"{typed}\n"))
    with pytest.raises(OpsError, match="declined") as refused:
        prompt.confirm("The scheduler moves.", env, yes=False)
    assert refused.value.exit_code == 1


def test_confirm_without_a_terminal_asks_for_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(UsageError, match="--yes"):
        prompt.confirm("The scheduler moves.", "lab", yes=False)
    prompt.confirm("The scheduler moves.", "lab", yes=True)

import pytest

from ops_agent.metadata import failures
from ops_agent.metadata.lock import HeldError
from ops_agent.metadata.shelf.manifest import ArchiveError


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (ArchiveError("a\n  b"), "a b", 1),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device", 1),
        (OSError(), "OSError", 1),
        (HeldError("ada has it"), "ada has it", 5),
        (failures.UsageError("--keep-last"), "--keep-last", 2),
        (KeyboardInterrupt(), "interrupted; nothing is lost, type the command again to go on", 130),
    ],
)
def test_error_is_one_line_and_an_exit_code(error: BaseException, text: str, code: int) -> None:
    assert failures.meaning(error) == (text, code)


def test_error_that_nobody_foresaw_says_where_it_was() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    text, code = failures.meaning(caught.value)
    assert text.startswith("ZeroDivisionError: division by zero (test_failures.py line ")
    assert code == 1

"""git on the control node: another repository of the environment is not asked, a URL's password is told to nobody."""

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

from ops_cli.console.errors import OpsError, UsageError

_TIMEOUT_SECONDS = 120

# What the environment of a hook says of the repository that it runs in (git rev-parse --local-env-vars).
_FOREIGN = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_CEILING_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s'\"]*@")
_HELPER = '!f() { test "$1" != get || printf "username=%s\\npassword=%s\\n" "$OPS_GIT_USER" "$OPS_GIT_PASSWORD"; }; f'


def run(path: Path, *words: str, url: str = "", index: Path | None = None, stdin: bytes = b"") -> str:
    """Run git in `path` and return what it printed.

    Name in `url` the word that is a repository's address: its login reaches git by the environment, since everybody may
    read the words of a process. Raises UsageError with git's reason, and OpsError if it is a remote's.
    """
    failure = OpsError if url else UsageError
    # Between options and names, `-c` has a value that is no verb either.
    verb = next(word for word in words if word[0].isalpha() and "=" not in word)
    try:
        done = subprocess.run(
            ["git", "-C", str(path), *(_address(url) if word == url else word for word in words)],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
            env=_environment(url) | ({"GIT_INDEX_FILE": str(index)} if index else {}),
        )
    except FileNotFoundError:
        raise OpsError("git is not installed on the control node; type: apt install git") from None
    except subprocess.TimeoutExpired:
        # Without it as the cause: its text is the whole command.
        where = without_login(url) or path
        raise failure(f"git {verb} of {where} has not ended within {_TIMEOUT_SECONDS:g} s") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}"
        raise failure(f"git {verb} in {path}: {_without_secrets(said, url)}")
    return done.stdout.decode(errors="surrogateescape").rstrip("\n")


def look(path: Path, *words: str) -> str:
    """Return what git printed, or nothing if it says no. Raises OpsError if git is not there."""
    try:
        return run(path, *words)
    except UsageError:
        return ""


def top(path: Path) -> Path | None:
    """Return the top of the work tree that `path` is in; None if there is no .git in it or above it.

    Raises UsageError if there is one and git refuses it: what it ignores must not be taken for DAG files.
    """
    here = path.resolve()
    if not any(os.path.lexists(directory / ".git") for directory in (here, *here.parents)):
        return None
    return Path(run(path, "rev-parse", "--show-toplevel"))


def without_login(url: str) -> str:
    """Return an address without the user, password and token that may be in it."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def _address(url: str) -> str:
    """Return the address to give to git: an SSH user stays in it, a login by HTTP is asked for."""
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.partition("/")[0].rpartition("@")
    if not separator or not at:
        return url
    user = "" if scheme in {"http", "https"} else f"{login.partition(':')[0]}@"
    return f"{scheme}://{user}{place}{rest[len(login) + len(at) + len(place) :]}"


def _login(url: str) -> tuple[str, str | None]:
    scheme, _, rest = url.partition("://")
    login, at, _ = rest.partition("/")[0].rpartition("@")
    user, colon, password = login.partition(":")
    if scheme not in {"http", "https"} or not at:
        return "", None
    return unquote(user), unquote(password) if colon else None


def _environment(url: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    user, password = _login(url)
    if not user and password is None:
        return environment
    # For that server alone: it may send git on to another one. A list of helpers begins anew with an empty one.
    scheme, _, rest = _address(url).partition("://")
    section = f"credential.{scheme}://{rest.partition('/')[0]}"
    settings = [(f"{section}.username", user)]
    if password is not None:
        settings += [(f"{section}.helper", ""), (f"{section}.helper", _HELPER)]
        environment |= {"OPS_GIT_USER": user, "OPS_GIT_PASSWORD": password}
    first = int(environment.get("GIT_CONFIG_COUNT") or 0)
    for number, (key, value) in enumerate(settings, start=first):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return environment | {"GIT_CONFIG_COUNT": str(first + len(settings))}


def _without_secrets(said: str, url: str) -> str:
    user, password = _login(url)
    said = _IN_ADDRESS.sub("", said)
    # A user without a password is a token.
    secret = user if password is None else password
    return said.replace(secret, "***") if secret else said

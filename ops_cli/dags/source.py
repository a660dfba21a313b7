"""The DAG files that are to become a release: from a commit, or from a directory as it stands."""

import getpass
import hashlib
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ops_cli.console.errors import OpsError, UsageError

# What ops-agent expects in a release's stream: its header first, then the files below this folder.
HEADER = "release.json"
FOLDER = "dags"
_SHOWN = 5
_LINK = "-> "
_EXECUTABLE = "* "


@dataclass(frozen=True)
class Source:
    """A packed tree and where it came from; `commit` is empty outside of git, `files` as `contents` says."""

    archive: Path
    files: Mapping[str, str]
    author: str
    message: str
    commit: str = ""
    dirty: bool = False
    origin: Mapping[str, str] | None = None

    @property
    def digest(self) -> str:
        """The digest of the content, as ops-agent computes it of what arrives."""
        return digest(self.files)

    def header(self, validation: Mapping[str, Any]) -> dict[str, Any]:
        """Return release.json, with the gate's report."""
        return {
            "author": self.author,
            "message": self.message,
            "digest": self.digest,
            "commit": self.commit,
            "dirty": self.dirty,
            "source": dict(self.origin or {}),
            "validation": dict(validation),
        }


def collect(path: Path, work: Path, *, ref: str = "", message: str = "", allow_dirty: bool = False) -> Source:
    """Pack the DAG files of `path` into `work`: those of the commit `ref`, HEAD if none is named.

    A directory outside of git, or with changes and `allow_dirty`, is packed as it stands. Raises UsageError if there
    is nothing to pack, or changes that were not allowed.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no directory of DAG files; type: ops deploy PATH")
    archive = work / "dags.tar"
    top = _git(path, "rev-parse", "--show-toplevel", check=False)
    if not top:
        if ref:
            raise UsageError(f"{path} is in no git repository, so there is no {ref} to deploy; leave --git-ref out")
        as_it_stands(path, work)
        origin = {"path": str(path.resolve()), "deployed_by": deployer()}
        text = message or f"{path.resolve().name}, not from git"
        return Source(archive, contents(archive), deployer(), text, origin=origin)
    commit = _git(path, "rev-parse", "--verify", "--quiet", f"{ref or 'HEAD'}^{{commit}}", check=False)
    if not commit:
        raise UsageError(f"{top} has no commit {ref or 'HEAD'}; type: git -C {top} log --oneline")
    changed = [] if ref else _git(path, "status", "--porcelain", "--untracked-files=normal", "--", ".").splitlines()
    if changed and not allow_dirty:
        shown = ", ".join(line[3:] for line in changed[:_SHOWN]) + (", ..." if len(changed) > _SHOWN else "")
        raise UsageError(f"{path} has changes that are in no commit ({shown}): commit them, or add --allow-dirty")
    if changed:
        as_it_stands(path, work)
    else:
        _export(path, commit, archive)
    author, subject = _git(path, "log", "-1", "--format=%an <%ae>%n%s", commit).split("\n", 1)
    return Source(archive, contents(archive), author, message or subject, commit, bool(changed), _origin(path, ref))


def clone(url: str, branch: str, work: Path) -> Path:
    """Fetch the head of a branch or tag, the default branch if none is named; return the work tree.

    Raises OpsError if it cannot be had.
    """
    target = work / "clone"
    of_branch = ["--branch", branch] if branch else []
    # Nobody is there to type a password into a timer.
    _git(work, "-c", "core.askPass=", "clone", "--quiet", "--depth=1", *of_branch, "--", url, str(target))
    return target


def head(url: str, ref: str) -> str:
    """Return the commit that a branch or tag names there, the default branch's head if none is named.

    Raises OpsError if the repository does not answer or has no such name.
    """
    wanted = [f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}"] if ref else ["HEAD"]
    listed = _git(Path(), "-c", "core.askPass=", "ls-remote", "--", url, *wanted)
    found = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
    for name in wanted:
        if name in found:
            return found[name]
    raise OpsError(f"{without_login(url)} has no branch or tag {ref}")


def as_it_stands(path: Path, work: Path) -> Path:
    """Pack a directory with its changes, but without what git ignores; return the archive."""
    names = _git(path, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".", check=False)
    listed = {name for name in names.split("\0") if name and os.path.lexists(path / name)}
    archive = work / "dags.tar"
    _pack(path, sorted(listed or _walk(path)), archive)
    return archive


def deployer() -> str:
    """Return who types, and where."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"


def contents(archive: Path) -> dict[str, str]:
    """Return the `entry` of each file of a packed tree by name, and `-> target` for a link.

    Bytecode and empty directories are no part of a release. Raises UsageError if nothing is left.
    """
    found = {}
    with tarfile.open(archive) as packed:
        for member in packed:
            name = member.name.removeprefix(f"{FOLDER}/")
            if member.isdir() or _is_bytecode(name):
                continue
            if member.issym():
                found[name] = f"{_LINK}{member.linkname}"
            elif content := packed.extractfile(member):
                sha256 = hashlib.sha256(content.read()).hexdigest()
                found[name] = entry(sha256, executable=bool(member.mode & 0o100))
    if all(one.startswith(_LINK) for one in found.values()):
        raise UsageError("there is not a single file to deploy; an empty release would remove every DAG")
    return found


def entry(sha256: str, *, executable: bool) -> str:
    """Return what stands for one file's content and whether it may be executed."""
    return f"{_EXECUTABLE if executable else ''}{sha256}"


def digest(files: Mapping[str, str]) -> str:
    """Return the sha256 of what `sha256sum` prints for all files by name, then `target <- name` for the links.

    Two asterisks stand for the blanks of a file that may be executed.
    """
    plain = [
        f"{one.removeprefix(_EXECUTABLE)}{'**' if one.startswith(_EXECUTABLE) else '  '}{name}\n"
        for name, one in sorted(files.items())
        if not one.startswith(_LINK)
    ]
    links = [f"{one[len(_LINK) :]} <- {name}\n" for name, one in sorted(files.items()) if one.startswith(_LINK)]
    return hashlib.sha256("".join([*plain, *links]).encode(errors="surrogateescape")).hexdigest()


def write_header(content: bytes, sink: IO[bytes]) -> None:
    """Write release.json as the first member of a tar stream that another archive can follow."""
    member = tarfile.TarInfo(HEADER)
    member.size = len(content)
    sink.write(member.tobuf(tarfile.PAX_FORMAT))
    sink.write(content)
    sink.write(b"\0" * (-len(content) % tarfile.BLOCKSIZE))


def _origin(path: Path, ref: str) -> dict[str, str]:
    return {
        "repository": without_login(_git(path, "remote", "get-url", "origin", check=False)),
        "path": _git(path, "rev-parse", "--show-prefix"),
        "ref": ref or _git(path, "rev-parse", "--abbrev-ref", "HEAD"),
        "deployed_by": deployer(),
    }


def _export(path: Path, commit: str, archive: Path) -> None:
    prefix = _git(path, "rev-parse", "--show-prefix").rstrip("/")
    if prefix and not _git(path, "rev-parse", "--verify", "--quiet", f"{commit}:{prefix}", check=False):
        raise UsageError(f"commit {commit[:12]} has no {prefix}/")
    # From the top: within a folder git would take that for part of the path.
    top = Path(_git(path, "rev-parse", "--show-toplevel"))
    _git(top, "archive", f"--prefix={FOLDER}/", f"--output={archive.resolve()}", f"{commit}:{prefix}")


def _pack(path: Path, names: list[str], archive: Path) -> None:
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as packed:
        for name in names:
            packed.add(path / name, f"{FOLDER}/{name}", recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    # As git keeps it: who writes with a narrow umask would else deploy what Airflow cannot read; no setuid bit either.
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def _walk(path: Path) -> Iterator[str]:
    for folder, directories, names in os.walk(path):
        # os.walk calls a link to a directory a directory, and does not enter it.
        links = [name for name in directories if Path(folder, name).is_symlink()]
        directories[:] = [name for name in directories if name not in {".git", "__pycache__", *links}]
        for name in (*names, *links):
            relative = str(Path(folder, name).relative_to(path))
            if not _is_bytecode(relative):
                yield relative


def _is_bytecode(name: str) -> bool:
    return name.endswith(".pyc") or "__pycache__" in name.split("/")


def refuse_login(url: str) -> None:
    """Raise UsageError for an address with a password or token in it: it would stand in ps and in journals."""
    scheme, separator, rest = url.partition("://")
    login, found, _ = rest.partition("/")[0].rpartition("@")
    if separator and found and (":" in login or scheme.lower() in {"http", "https"}):
        raise UsageError(
            f"{without_login(url)} was given with a login in it: leave that to a credential helper of git "
            "(git help credentials) or to a key of SSH's"
        )


def without_login(url: str) -> str:
    """Return an address without the user and password that may be in it."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else url


def _git(path: Path, *words: str, check: bool = True) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(path), *words],
            capture_output=True,
            check=False,
            timeout=120,
            env=os.environ | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
        )
    except FileNotFoundError:
        raise OpsError("git is not installed on the control node; type: apt install git") from None
    if done.returncode and check:
        verb = next(word for word in words if word[0].isalpha() and "=" not in word)
        said = " ".join(done.stderr.decode(errors="replace").split())
        for word in words:
            said = said.replace(word, without_login(word))
        raise OpsError(f"git {verb} in {path}: {said}")
    return "" if done.returncode else done.stdout.decode(errors="surrogateescape").rstrip("\n")

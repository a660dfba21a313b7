"""The DAG files that are to become a release: from a commit, or from a directory as it stands."""

import hashlib
import os
import shlex
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops_cli.console.errors import OpsError, UsageError
from ops_cli.dags import git
from ops_cli.fleet import caller

# What ops-agent expects in the stream of a tree: its files below this folder.
FOLDER = "dags"
_SHOWN = 5
_LINK = "-> "
_EXECUTABLE = "* "
# The mode of an entry that is another repository's commit.
_SUBMODULE = "160000"


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

    def header(self) -> dict[str, Any]:
        """Return what is to be said of the release; its digest and the gate's report are what the host itself found."""
        return {
            "author": self.author,
            "message": self.message,
            "commit": self.commit,
            "dirty": self.dirty,
            "source": dict(self.origin or {}),
        }


def collect(path: Path, work: Path, *, ref: str = "", message: str = "", allow_dirty: bool = False) -> Source:
    """Pack the DAG files of `path` into `work`: those of the commit `ref`, HEAD if none is named.

    A directory outside of git, or with changes and `allow_dirty`, is packed as it stands. Raises UsageError if there
    is nothing to pack, or changes that were not allowed.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no directory of DAG files: name the one that holds them")
    archive = work / "dags.tar"
    top = git.top(path)
    if not top:
        if ref:
            raise UsageError(f"{path} is in no git repository, so there is no {ref} to deploy; leave --git-ref out")
        as_it_stands(path, work)
        origin = {"path": str(path.resolve()), "deployed_by": caller.name()}
        text = message or f"{path.resolve().name}, not from git"
        return Source(archive, contents(archive), caller.name(), text, origin=origin)
    commit = git.look(path, "rev-parse", "--verify", "--quiet", f"{ref or 'HEAD'}^{{commit}}")
    if not commit:
        raise UsageError(f"{top} has no commit {ref or 'HEAD'}; type: git -C {top} log --oneline")
    changed = [] if ref else _changed(path)
    if changed and not allow_dirty:
        shown = ", ".join(changed[:_SHOWN]) + (", ..." if len(changed) > _SHOWN else "")
        raise UsageError(f"{path} has changes that are in no commit ({shown}): commit them, or add --allow-dirty")
    if changed:
        as_it_stands(path, work)
    else:
        _export(path, commit, work)
    author, _, subject = _text(git.run(path, "log", "-1", "--format=%an <%ae>%n%s", commit)).partition("\n")
    return Source(archive, contents(archive), author, message or subject, commit, bool(changed), _origin(path, ref))


def clone(url: str, branch: str, work: Path) -> Path:
    """Fetch the head of a branch or tag, the default branch if none is named; return the work tree.

    Raises OpsError if it cannot be had.
    """
    target = work / "clone"
    of_branch = ["--branch", branch] if branch else []
    # Nobody is there to type a password into a timer.
    words = ["-c", "core.askPass=", "clone", "--quiet", "--depth=1", "--recurse-submodules", "--shallow-submodules"]
    git.run(work, *words, *of_branch, "--", url, str(target), url=url)
    return target


def head(url: str, ref: str) -> str:
    """Return the commit that a branch or tag names there, the default branch's head if none is named.

    Raises OpsError if the repository does not answer or has no such name.
    """
    wanted = [f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}"] if ref else ["HEAD"]
    listed = git.run(Path(), "-c", "core.askPass=", "ls-remote", "--", url, *wanted, url=url)
    found = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
    for name in wanted:
        if name in found:
            return found[name]
    raise OpsError(f"{git.without_login(url)} has no branch or tag {ref}")


def as_it_stands(path: Path, work: Path) -> Path:
    """Pack a directory with its changes and its submodules, but without what git ignores; return the archive.

    Raises UsageError if git refuses the repository, or if a submodule is not checked out.
    """
    names = {name for name in _listed(path) if not _is_bytecode(name)} if git.top(path) else set(_walk(path))
    archive = work / "dags.tar"
    _pack(path, sorted(names), archive)
    return archive


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


def _origin(path: Path, ref: str) -> dict[str, str]:
    return {
        "repository": git.without_login(git.look(path, "remote", "get-url", "origin")),
        "path": git.run(path, "rev-parse", "--show-prefix"),
        "ref": ref or git.run(path, "rev-parse", "--abbrev-ref", "HEAD"),
        "deployed_by": caller.name(),
    }


def _changed(path: Path) -> list[str]:
    words = ["--porcelain", "--untracked-files=normal", "--ignore-submodules=none", "--", "."]
    return [line[3:] for line in git.run(path, "status", *words).splitlines()]


def _listed(path: Path) -> Iterator[str]:
    """Yield the files of a work tree, those of repositories within it too; git itself would name only these."""
    staged = git.run(path, "ls-files", "-z", "--cached", "--stage", "--", ".").split("\0")
    names = {name: entry[:6] for entry, _, name in (line.partition("\t") for line in staged) if name}
    names |= dict.fromkeys(git.run(path, "ls-files", "-z", "--others", "--exclude-standard", "--", ".").split("\0"), "")
    for name, mode in names.items():
        if mode == _SUBMODULE or name.endswith("/"):
            inner = path / name
            if inner.is_dir():
                _refuse_empty_submodule(inner)
                yield from (f"{name.rstrip('/')}/{each}" for each in _listed(inner))
        elif name and os.path.lexists(path / name):
            yield name


def _export(path: Path, commit: str, work: Path) -> None:
    prefix = git.run(path, "rev-parse", "--show-prefix").rstrip("/")
    if prefix and not git.look(path, "rev-parse", "--verify", "--quiet", f"{commit}:{prefix}"):
        raise UsageError(f"commit {commit[:12]} has no {prefix}/")
    top, tree = Path(git.run(path, "rev-parse", "--show-toplevel")), Path(tempfile.mkdtemp(dir=work.resolve())) / "tree"
    _check_out(top, commit, prefix, tree)
    _pack(tree / prefix, sorted(_walk(tree / prefix)), work / "dags.tar")


def _check_out(top: Path, commit: str, prefix: str, target: Path) -> None:
    """Write the files of a commit below `prefix` as a checkout has them, which `git archive` does not.

    It would leave out submodules, and what .gitattributes calls export-ignore.
    """
    below = ["--", f"{prefix}/"] if prefix else []
    listed = git.run(top, "ls-tree", "-r", "-z", "--full-tree", commit, *below).split("\0")
    names = {name: entry for entry, _, name in (line.partition("\t") for line in listed) if name}
    target.mkdir(parents=True, exist_ok=True)
    index = target.with_name(f"{target.name}.index")
    git.run(top, "-c", "core.sparseCheckout=false", "read-tree", commit, index=index)
    files = [name for name, entry in names.items() if not entry.startswith(_SUBMODULE)]
    git.run(
        top,
        *("checkout-index", "-z", "--stdin", f"--prefix={target}/"),
        index=index,
        stdin="\0".join(files).encode(errors="surrogateescape"),
    )
    index.unlink()
    for name in names.keys() - set(files):
        _refuse_empty_submodule(top / name)
        _check_out(top / name, names[name].split(" ")[2], "", target / name)


def _refuse_empty_submodule(directory: Path) -> None:
    if not os.path.lexists(directory / ".git"):
        update = f"git -C {shlex.quote(str(directory.parent))} submodule update --init --recursive"
        raise UsageError(f"the submodule {directory} is not checked out; type: {update}")


def _text(said: str) -> str:
    """Return what a commit says as text that can be printed, whatever its encoding."""
    return said.encode(errors="surrogateescape").decode(errors="replace")


def _pack(path: Path, names: list[str], archive: Path) -> None:
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as packed:
        for name in names:
            try:
                packed.add(path / name, f"{FOLDER}/{name}", recursive=False, filter=_anonymous)
            except OSError as error:
                raise UsageError(f"{path / name} cannot be packed: {error.strerror}") from error


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    # As git has them, and never setuid: who writes with a narrow umask would else deploy what Airflow cannot read.
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

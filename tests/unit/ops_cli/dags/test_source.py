import subprocess
import tarfile
from pathlib import Path

import pytest

from ops_agent.dags import stream
from ops_cli.console.errors import OpsError, UsageError
from ops_cli.dags import source
from ops_cli.fleet import caller
from ops_release.manifest import content_digest


def git(repository: Path, *words: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    done = subprocess.run(["git", "-C", repository, *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    """The dags/ of a repository with two commits; the first has one file less."""
    repository = tmp_path / "repository"
    folder = repository / "dags"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "a.py").write_text("a = 1\n")
    (repository / "README").write_text("not a DAG\n")
    git(repository.parent, "init", "-q", "-b", "main", str(repository))
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "First")
    (folder / "sub dir" / "größe.py").write_text("b = 2\n")
    (folder / "link.py").symlink_to("a.py")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "Second", "-m", "With a body.")
    git(repository, "remote", "add", "origin", "https://user:token@git.example.com/dags.git")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_clean_commit_is_packed_with_its_author_and_subject(dags: Path, work: Path) -> None:
    packed = source.collect(dags, work)
    assert packed.commit == git(dags, "rev-parse", "HEAD")
    assert (packed.author, packed.message, packed.dirty) == ("Ada <ada@example.com>", "Second", False)
    assert sorted(packed.files) == ["a.py", "link.py", "sub dir/größe.py"]
    assert packed.files["link.py"] == "-> a.py"
    assert packed.origin is not None
    assert packed.origin["repository"] == "https://git.example.com/dags.git"
    assert (packed.origin["path"], packed.origin["ref"]) == ("dags/", "main")


def test_another_ref_is_packed_whatever_the_work_tree_holds(dags: Path, work: Path) -> None:
    (dags / "a.py").write_text("half written")
    packed = source.collect(dags, work, ref="HEAD~1", message="Back to the first")
    assert (list(packed.files), packed.message, packed.dirty) == (["a.py"], "Back to the first", False)
    assert packed.commit == git(dags, "rev-parse", "HEAD~1")


def test_changes_are_refused_by_name_and_packed_when_allowed(dags: Path, work: Path) -> None:
    (dags / "a.py").write_text("a = 3\n")
    (dags / "new.py").write_text("")
    (dags / ".gitignore").write_text("*.tmp\n")
    (dags / "left.tmp").write_text("")
    with pytest.raises(UsageError, match=r"a\.py.*--allow-dirty"):
        source.collect(dags, work)
    packed = source.collect(dags, work, allow_dirty=True)
    assert packed.dirty
    assert sorted(packed.files) == [".gitignore", "a.py", "link.py", "new.py", "sub dir/größe.py"]


def test_deleted_file_counts_as_a_change_and_is_left_out(dags: Path, work: Path) -> None:
    (dags / "a.py").unlink()
    (dags / "link.py").unlink()
    assert list(source.collect(dags, work, allow_dirty=True).files) == ["sub dir/größe.py"]


def test_directory_outside_of_git_is_packed_as_it_stands(tmp_path: Path, work: Path) -> None:
    folder = tmp_path / "plain"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "a.pyc").write_text("")
    (folder / "a.py").write_text("")
    packed = source.collect(folder, work)
    assert (packed.commit, list(packed.files)) == ("", ["a.py"])
    assert packed.origin == {"path": str(folder), "deployed_by": caller.name()}
    with pytest.raises(UsageError, match="no git repository"):
        source.collect(folder, work, ref="main")


@pytest.mark.parametrize(("ref", "text"), [("nonsense", "no commit nonsense"), ("", "not a single file")])
def test_what_cannot_be_packed_is_refused(tmp_path: Path, dags: Path, work: Path, ref: str, text: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=text):
        source.collect(dags if ref else tmp_path / "empty", work, ref=ref)


def test_missing_directory_is_refused(tmp_path: Path, work: Path) -> None:
    with pytest.raises(UsageError, match="no directory of DAG files"):
        source.collect(tmp_path / "nowhere", work)


@pytest.mark.parametrize("dirty", [False, True])
def test_packed_tree_has_on_the_host_the_digest_that_it_has_here(
    dags: Path, work: Path, tmp_path: Path, *, dirty: bool
) -> None:
    if dirty:
        (dags / "a.py").write_text("a = 3\n")
    packed = source.collect(dags, work, allow_dirty=dirty)
    with tarfile.open(packed.archive) as arrived:
        arrived.extractall(tmp_path / "host", filter="tar")
    files, links = stream.contents(tmp_path / "host" / "dags")
    assert {name: entry.sha256 for name, entry in files.items()} | {
        name: f"-> {target}" for name, target in links.items()
    } == packed.files
    assert content_digest(files, links) == packed.digest


def test_packed_tree_names_nobody_of_this_machine(dags: Path, work: Path) -> None:
    with tarfile.open(source.as_it_stands(dags, work)) as packed:
        assert {(member.uid, member.gid, member.uname) for member in packed} == {(0, 0, "")}


def test_narrow_umask_keeps_nothing_from_airflow(tmp_path: Path, work: Path) -> None:
    (tmp_path / "dag.py").touch(mode=0o600)
    (tmp_path / "run.sh").touch(mode=0o700)
    with tarfile.open(source.as_it_stands(tmp_path, work)) as packed:
        modes = {member.name.rpartition("/")[2]: member.mode for member in packed}
    assert modes == {"dag.py": 0o644, "run.sh": 0o755}


def test_branch_of_a_remote_is_fetched_and_packed(dags: Path, work: Path) -> None:
    tree = source.clone(f"file://{dags.parent}", "main", work)
    packed = source.collect(tree / "dags", work)
    assert packed.commit == git(dags, "rev-parse", "HEAD")
    assert packed.origin is not None
    assert (packed.origin["repository"], packed.origin["ref"]) == (f"file://{dags.parent}", "main")


def test_branch_that_does_not_exist_is_an_error(dags: Path, work: Path) -> None:
    with pytest.raises(OpsError, match=r"git clone.*gone"):
        source.clone(f"file://{dags.parent}", "gone", work)


def test_commit_that_only_makes_a_file_executable_is_another_release(dags: Path, work: Path, tmp_path: Path) -> None:
    before = source.collect(dags, work)
    (dags / "a.py").chmod(0o755)
    git(dags, "commit", "-q", "-a", "-m", "Only a mode")
    (tmp_path / "again").mkdir()
    after = source.collect(dags, tmp_path / "again")
    assert after.digest != before.digest
    assert {name for name, one in after.files.items() if before.files[name] != one} == {"a.py"}


def test_digest_is_the_hosts_whatever_may_be_executed(tmp_path: Path, work: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, mode in (("a.py", 0o644), ("run.sh", 0o755), ("private.py", 0o600), ("setuid", 0o4755)):
        (tree / name).write_text(name)
        (tree / name).chmod(mode)
    (tree / "link").symlink_to("run.sh")
    packed = source.collect(tree, work)
    assert content_digest(*stream.contents(tree)) == packed.digest
    with tarfile.open(packed.archive) as written:
        modes = {member.name: member.mode for member in written if member.isfile()}
    assert modes == {"dags/a.py": 0o644, "dags/run.sh": 0o755, "dags/private.py": 0o644, "dags/setuid": 0o755}


def test_checkout_of_another_user_is_refused_with_the_reason_of_git(
    dags: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dags / ".gitignore").write_text("*.env\n")
    (dags / "secret.env").write_text("")
    # What git's own tests set instead of a chown.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for attempt in (source.collect, source.as_it_stands):
        with pytest.raises(UsageError, match=r"git rev-parse in .*dubious ownership.*safe\.directory"):
            attempt(dags, work)
    assert not (work / "dags.tar").exists()


def test_damaged_repository_is_refused(tmp_path: Path, work: Path) -> None:
    (tmp_path / "broken" / ".git").mkdir(parents=True)
    (tmp_path / "broken" / "a.py").write_text("")
    with pytest.raises(UsageError, match="not a git repository"):
        source.collect(tmp_path / "broken", work)


@pytest.mark.parametrize("where", ["in a repository", "outside of git"])
def test_repository_of_the_environment_is_not_asked(
    dags: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    commit = git(dags, "rev-parse", "HEAD")
    git(tmp_path, "init", "-q", str(tmp_path / "other"))
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "of another")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.py").write_text("")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    packed = source.collect(dags if where == "in a repository" else plain, work)
    assert packed.commit == (commit if where == "in a repository" else "")


def test_commit_without_a_message_is_packed(dags: Path, work: Path) -> None:
    git(dags, "commit", "-q", "--allow-empty", "--allow-empty-message", "-m", "")
    packed = source.collect(dags, work)
    assert (packed.author, packed.message) == ("Ada <ada@example.com>", "")
    assert source.collect(dags, work, message="Said").message == "Said"


def test_commit_in_an_old_encoding_can_be_printed(dags: Path, work: Path) -> None:
    (work / "message").write_bytes("größer".encode("latin-1"))
    git(dags, "commit", "-q", "--allow-empty", "-F", str(work / "message"))
    assert source.collect(dags, work).message.encode().startswith(b"gr")


def test_export_ignore_is_no_reason_to_leave_a_checked_out_file_behind(dags: Path, work: Path) -> None:
    (dags / ".gitattributes").write_text("a.py export-ignore\n*.txt eol=crlf\n")
    (dags / "notes.txt").write_text("one\n")
    git(dags, "add", ".")
    git(dags, "commit", "-q", "-m", "Third")
    (dags / "notes.txt").unlink()
    git(dags, "checkout", "-q", "--", "notes.txt")
    committed = source.collect(dags, work).files
    assert "a.py" in committed
    assert committed == source.contents(source.as_it_stands(dags, work))


@pytest.fixture
def submodule(dags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submodule below dags/ with one DAG file."""
    for number, (key, value) in enumerate({"protocol.file.allow": "always"}.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
        monkeypatch.setenv("GIT_CONFIG_COUNT", str(number + 1))
    git(tmp_path, "init", "-q", "-b", "main", str(tmp_path / "shared"))
    (tmp_path / "shared" / "c.py").write_text("c = 3\n")
    git(tmp_path / "shared", "add", ".")
    git(tmp_path / "shared", "commit", "-q", "-m", "Shared")
    git(dags.parent, "submodule", "--quiet", "add", f"file://{tmp_path}/shared", "dags/shared")
    git(dags, "commit", "-q", "-m", "Third")
    return dags / "shared"


WITH_SUBMODULE = ["a.py", "link.py", "shared/c.py", "sub dir/größe.py"]


def test_submodule_is_packed_as_it_was_committed_and_as_it_stands(submodule: Path, dags: Path, work: Path) -> None:
    assert sorted(source.collect(dags, work).files) == WITH_SUBMODULE
    assert sorted(source.contents(source.as_it_stands(dags, work))) == WITH_SUBMODULE
    (submodule / "c.py").write_text("c = 4\n")
    with pytest.raises(UsageError, match=r"changes that are in no commit \(dags/shared\)"):
        source.collect(dags, work)


def test_submodule_is_fetched_with_its_repository(submodule: Path, dags: Path, work: Path) -> None:
    assert submodule.is_dir()
    tree = source.clone(f"file://{dags.parent}", "main", work)
    assert sorted(source.collect(tree / "dags", work).files) == WITH_SUBMODULE


def test_submodule_that_is_not_checked_out_is_refused_by_name(submodule: Path, dags: Path, work: Path) -> None:
    git(dags.parent, "submodule", "--quiet", "deinit", "-f", "dags/shared")
    for attempt in (source.collect, source.as_it_stands):
        with pytest.raises(UsageError, match=rf"the submodule {submodule} is not checked out; type: git -C .* --init"):
            attempt(dags, work)


def test_directory_that_git_ignores_is_not_packed(dags: Path, work: Path) -> None:
    (dags.parent / ".gitignore").write_text("build/\n")
    (dags.parent / "build").mkdir()
    (dags.parent / "build" / "secret.py").write_text("")
    with tarfile.open(source.as_it_stands(dags.parent / "build", work)) as packed:
        assert packed.getnames() == []


def test_packed_modes_are_those_of_git(dags: Path, work: Path) -> None:
    (dags / "a.py").chmod(0o4777)
    git(dags, "commit", "-q", "-a", "-m", "Third")
    for packed in (source.as_it_stands(dags, work), source.collect(dags, work).archive):
        with tarfile.open(packed) as archived:
            modes = {member.name: oct(member.mode) for member in archived}
        assert (modes["dags/a.py"], modes["dags/sub dir/größe.py"]) == ("0o755", "0o644")


def test_file_that_goes_away_is_named(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").mkdir()
    monkeypatch.setattr(source, "_walk", lambda _: ["gone.py"])
    with pytest.raises(UsageError, match=r"gone\.py cannot be packed: No such file"):
        source.collect(tmp_path / "plain", work)

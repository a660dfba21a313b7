"""What leaves this repository in one piece: its wheel, and what an Airflow environment is named after."""

import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

PACKAGES = ("ops_agent", "ops_airflow", "ops_cli", "ops_release")
RUN = "import sys; from ops_cli.main import run; sys.exit(run(sys.argv[1:]))"


def modules(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for package in PACKAGES for path in (root / package).rglob("*.py")}


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the repository's wheel, unpacked; built from a copy, as setuptools leaves a build folder behind."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for package in PACKAGES:
        shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, copy)
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", built, copy], check=True, timeout=120)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as packed:
        packed.extractall(built / "unpacked")
    return built / "unpacked"


@pytest.fixture
def bare_python(wheel: Path, tmp_path: Path) -> Path:
    """Return an interpreter that has the wheel and the libraries it names, and no checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=60)
    packages = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    # A path in a .pth file brings no .pth files of its own: the editable checkout stays out.
    (packages / "wheel.pth").write_text(f"{wheel}\n{sysconfig.get_path('purelib')}\n")
    return tmp_path / "venv/bin/python"


def ops(python: Path, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-c", RUN, *words]
    return subprocess.run(command, check=False, cwd=directory, capture_output=True, text=True, timeout=60)


def test_wheel_holds_every_module_of_every_package(root: Path, wheel: Path) -> None:
    assert modules(wheel) == modules(root)


def test_commands_of_the_wheel_start_without_a_checkout(bare_python: Path, tmp_path: Path) -> None:
    done = ops(bare_python, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    where = "import ops_cli, ops_agent; print(ops_cli.__file__, ops_agent.__file__)"
    found = subprocess.run([bare_python, "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "/unpacked/ops_cli/" in found.stdout
    assert "/unpacked/ops_agent/" in found.stdout


def test_validate_local_of_the_wheel_reaches_the_gate(bare_python: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    done = ops(bare_python, tmp_path, "validate", str(tmp_path / "tree"), "--local", "--python", str(bare_python))
    # As far as it gets without Airflow, which is the gate's own check for it.
    assert "has no Airflow, in which the files would have to be imported" in done.stderr
    assert "No module named" not in done.stderr
    assert done.returncode == 1


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """Return a copy of all that may be in an environment's name."""
    for name in (*PACKAGES, "locks", "roles/airflow/files"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def environment(root: Path, checkout: Path) -> str:
    """Return the digest in the environment's name, as role airflow computes it."""
    known = yaml.safe_load((root / "roles/airflow/vars/main.yml").read_text())
    lock = known["__airflow_lock"].replace("{{ __airflow_repository }}", str(checkout))
    inputs = [
        each.replace("{{ __airflow_repository }}", str(checkout)).replace("{{ __airflow_lock }}", lock)
        for each in known["__airflow_env_inputs"]
    ]
    digest = runpy.run_path(str(root / "ansible/filter_plugins/tree_digest.py"))["tree_digest"]
    return str(digest(inputs))


@pytest.mark.parametrize("changed", ["ops_agent/main.py", "ops_cli/main.py", "locks/airflow.in", "locks/archive.txt"])
def test_environment_keeps_its_name_when_something_else_changes(root: Path, checkout: Path, changed: str) -> None:
    before = environment(root, checkout)
    (checkout / changed).write_text((checkout / changed).read_text() + "\n# changed\n")
    assert environment(root, checkout) == before


@pytest.mark.parametrize(
    "changed",
    ["ops_airflow/scheduler/keeper.py", "ops_release/cache.py", "locks/airflow.txt", "roles/airflow/files/build-env"],
)
def test_environment_gets_another_name_when_what_it_holds_changes(root: Path, checkout: Path, changed: str) -> None:
    before = environment(root, checkout)
    (checkout / changed).write_text((checkout / changed).read_text() + "\n# changed\n")
    assert environment(root, checkout) != before


def test_environment_is_named_after_the_packages_that_are_put_into_it(root: Path) -> None:
    known = yaml.safe_load((root / "roles/airflow/vars/main.yml").read_text())
    named = {each.rpartition("/")[2] for each in known["__airflow_env_inputs"] if "/ops_" in each}
    script = (root / "roles/airflow/files/bundle-wheels").read_text()
    copied = re.search(r'^cp -r (.*) "\$work/source/"$', script, re.MULTILINE)
    assert copied
    assert set(re.findall(r"\$repository/(\w+)", copied[1])) == named
    assert re.search(r"^module-name = (.*)$", script, re.MULTILINE)[1] == str(sorted(named)).replace("'", '"')  # type: ignore[index]

"""What `pip install .` gives: both commands, all files that they read, and nothing that is not declared."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMES_ALONG = {"annotated-types", "anyio", "httpx", "jinja2", "pydantic-core", "pydantic_core", "starlette", "tokenizers",
               "typing-extensions", "typing_extensions"}  # gradio, pydantic and transformers cannot be without
OPTIONAL = {"webview", "ray"}  # of extras that the code asks for by itself


def pins(name: str) -> dict[str, str]:
    """Package -> version of a requirements file, without the files that it includes."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return {package.partition("[")[0].lower(): version for line in lines if "==" in line
            for package, _, version in [line.partition("==")]}


def test_what_is_pinned_is_what_may_be_installed() -> None:
    extras = PROJECT["optional-dependencies"]
    of_file = {"requirements.txt": [*PROJECT["dependencies"], *extras["memory"]],
               "requirements-dev.txt": [*extras["dev"], *extras["ray"]]}
    for file, allowed in of_file.items():
        wanted = {one.name.lower(): one for one in map(Requirement, allowed)}
        pinned = pins(file)
        assert pinned.keys() == wanted.keys(), file
        assert not [name for name, version in pinned.items() if not wanted[name].specifier.contains(version)]


def test_everything_that_is_imported_is_declared() -> None:
    declared = {Requirement(one).name.lower() for one in PROJECT["dependencies"]}
    of_module = importlib.metadata.packages_distributions()
    declared |= COMES_ALONG
    missing = {}
    for file in [*(ROOT / "engine").rglob("*.py"), *(ROOT / "studio").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = ([one.name for one in node.names] if isinstance(node, ast.Import)
                     else [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else [])
            for name in {one.partition(".")[0] for one in names} - {"engine", "studio", *sys.stdlib_module_names, *OPTIONAL}:
                if not {one.lower() for one in of_module.get(name, [])} & declared:
                    missing[name] = str(file.relative_to(ROOT))
    assert missing == {}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as pip lays it out."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True,
                   capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, code: str) -> str:
    """What a program prints that sees the installed packages, started from another folder."""
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True,
                            env={**os.environ, "PYTHONPATH": str(installed), "PERSONA_STUDIO_HOME": str(folder / "home")})
    return result.stdout


def test_both_commands_run_from_any_folder(installed: Path, tmp_path: Path) -> None:
    commands = (next(installed.glob("*.dist-info")) / "entry_points.txt").read_text(encoding="utf-8")
    named = dict(re.findall(r"^(\S+) = (\S+):main$", commands, re.M))
    assert named == {"persona": "engine.__main__", "persona-studio": "studio.launch"}
    assert "starter" in run(installed, tmp_path, "from engine.__main__ import main; main(['models'])")
    assert "All is well" in run(installed, tmp_path, "from studio.launch import main; main(['--check'])")


def files_of(folder: Path) -> list[str]:
    """The files below a folder, by their path in it."""
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())


def test_all_that_comes_with_the_program_is_found(installed: Path, tmp_path: Path) -> None:
    code = "from engine.base.files import resource\nfor name in ('assets', 'characters', 'LICENSE'): print(resource(name))"
    assets, characters, licence = (Path(line) for line in run(installed, tmp_path, code).splitlines())
    assert files_of(assets) == files_of(ROOT / "assets") and files_of(characters) == files_of(ROOT / "characters")
    assert licence.is_file() and installed in licence.parents and installed in assets.parents
    assert not {"tests", "benchmarks", "docs"} & {one.name for one in installed.iterdir()}

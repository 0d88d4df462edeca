"""The house rules that keep the engine apart from the app, and light: who imports whom, and what is imported when."""

import ast
import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "engine"
FLOORS = [{"base"}, {"cards", "models", "labels"}, {"calibration", "pruning", "evaluation", "export"},
          {"pipeline", "stages", "commands", "character_commands", "inspecting", "running", "chat", "script", "scene", "casting",
           "chat_worker", "serving", "server", "cluster",
           "frontier", "evidence", "__main__", "__init__"}]
SQLITE = {"sqlite3", "sqlite_utils"}
STRANGERS = {"gradio", *SQLITE, "studio", "app", "benchmarks"}
MEMORY = ENGINE / "serving" / "memory"  # of players: the engine's only SQLite file, and never the studio's library


def files() -> list[Path]:
    return sorted(ENGINE.rglob("*.py"))


def parsed(source: str) -> ast.Module:
    """The source as a tree. A collection of garbage on the way can run other threads' code, which Python 3.11 takes for a fault."""
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        gc.enable()


def imported(source: str) -> set[str]:
    """Dotted names of all modules that a source imports, at any depth: "engine.models" and "engine.models.known"."""
    names = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def rooms(source: str) -> set[str]:
    """The engine's folders, or files at its top, that a source imports from."""
    return {name.split(".")[1] for name in imported(source) if name.startswith("engine.")}


def floor_of(room: str) -> int:
    found = [number for number, floor in enumerate(FLOORS) if room in floor]
    assert found, f"{room} has no floor: name it in FLOORS"
    return found[0]


def faults(file: Path, source: str) -> list[str]:
    """The imports of an engine's file that go up, or across on one of the lower floors."""
    own = file.relative_to(ENGINE).parts[0].removesuffix(".py")
    top = len(FLOORS) - 1
    return [f"{own} imports {room}" for room in sorted(rooms(source) - {own})
            if floor_of(room) > floor_of(own) or (floor_of(room) == floor_of(own) < top)]


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ENGINE)))
def test_imports_run_downwards_and_never_to_the_app(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    allowed = SQLITE if file.is_relative_to(MEMORY) else set()
    assert not {name.split(".")[0] for name in imported(source)} & (STRANGERS - allowed)
    assert faults(file, source) == []


def test_the_rule_would_notice() -> None:
    for place, source in (("base/x.py", "from engine.cards.card import Card"), ("models/x.py", "import engine.cards"),
                          ("pruning/x.py", "def f():\n    from engine.export import folder"),
                          ("cards/x.py", "from engine import pipeline"), ("export/x.py", "import engine.stages.finish")):
        assert len(faults(ENGINE / place, source)) == 1, place
    for place, source in (("stages/x.py", "import engine.stages.mask"), ("pruning/x.py", "import engine.base.files")):
        assert faults(ENGINE / place, source) == []
    assert len(files()) > 30


STUDIO_MAY_NOT = r"engine\.(?!base\b|cards\b|export$|export\.engines\b|serving$|serving\.(files|memory)\b|calibration\.filtering\b)"
STUDIO_FLOORS = [{"settings", "figures", "labels"}, {"store"},
                 {"workers", "tokens", "live", "theme", "window", "border", "environment", "login", "privacy", "trial", "uploads"},
                 {"application", "services"}, {"page", "library", "under_way", "welcome", "times"}, {"shelf", "panels"},
                 {"sidebar", "tabs"},
                 {"ui"}, {"launch"}]


def studio_files() -> list[Path]:
    return sorted((ROOT / "studio").rglob("*.py"))


def studio_faults(file: Path, source: str) -> list[str]:
    """What a file of the studio may not import: the engine above cards (export targets, GGUF files, the memory of players and the
    rules on lines excepted), heavy libraries, floors above."""
    own = file.relative_to(ROOT / "studio").parts[0].removesuffix(".py")
    if own == "__init__":
        return []
    floor_of_room = {room: number for number, floor in enumerate(STUDIO_FLOORS) for room in floor}
    assert own in floor_of_room, f"{own} has no floor: name it in STUDIO_FLOORS"
    names = imported(source)
    engine = [name for name in names if re.match(STUDIO_MAY_NOT, name)]
    heavy = [name for name in names
             if name.split(".")[0] in {"torch", "transformers", "accelerate", "peft", "bitsandbytes", "benchmarks"}]
    above = [name for name in names if name.startswith("studio.") and floor_of_room[name.split(".")[1]] > floor_of_room[own]]
    return [*engine, *heavy, *above]


@pytest.mark.parametrize("file", studio_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_studio_imports_no_torch_and_downwards_only(file: Path) -> None:
    assert studio_faults(file, file.read_text(encoding="utf-8")) == []


def test_the_studios_rule_would_notice() -> None:
    page = ROOT / "studio" / "page.py"
    for source in ("from engine.models.loading import load_model", "import torch", "from studio.ui import build_page"):
        assert studio_faults(page, source), source
    assert studio_faults(page, "from engine.cards.card import Card\nfrom studio.store import runs") == []


def test_the_memory_of_players_never_opens_the_library() -> None:
    sources = [file.read_text(encoding="utf-8") for file in sorted(MEMORY.glob("*.py"))]
    assert sum("players.db" in source for source in sources) and not any("studio.db" in source for source in sources)
    assert all(rooms(source) <= {"base", "cards", "calibration", "serving"} for source in sources)


def test_only_the_store_opens_sqlite() -> None:
    openers = [file for file in [*studio_files(), ROOT / "app.py"]
               if {"sqlite3", "sqlite_utils"} & {name.split(".")[0] for name in imported(file.read_text(encoding="utf-8"))}]
    assert openers and all(file.parent.name == "store" for file in openers)


PAGE_WITHOUT_TORCH = """
import sys, tempfile
from pathlib import Path
from studio.services import Services
from studio.settings import Settings
from studio.ui import build_page
build_page(Services.open(Settings(Path(tempfile.mkdtemp()))))
print([name for name in ("torch", "transformers", "bitsandbytes") if name in sys.modules])
"""


@pytest.mark.slow
def test_the_whole_page_is_built_without_torch() -> None:
    result = subprocess.run([sys.executable, "-c", PAGE_WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_what_runs_a_job_knows_events_only() -> None:
    assert rooms((ENGINE / "running.py").read_text(encoding="utf-8")) <= {"base", "labels"}


@pytest.mark.parametrize("program", ["plain_transformers.py", "llama_cpp.py"])
def test_the_programs_of_the_proofs_load_nothing_of_ours(program: str) -> None:
    names = imported((ENGINE / "export" / program).read_text(encoding="utf-8"))
    assert names and not any(name.split(".")[0] == "engine" for name in names)


HEAVY = """
import importlib, pathlib, sys
import engine.serving.memory
for part in ("base", "cards"):
    for file in sorted(pathlib.Path("engine", part).glob("*.py")):
        importlib.import_module(f"engine.{part}.{file.stem}".removesuffix(".__init__"))
print([name for name in ("torch", "transformers", "openai", "huggingface_hub") if name in sys.modules])
from engine.__main__ import main
assert main(["models"]) == 0
print([name for name in ("torch", "transformers", "openai") if name in sys.modules])
"""


def test_cards_and_the_list_of_models_need_no_torch() -> None:
    result = subprocess.run([sys.executable, "-c", HEAVY], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("[]", "[]")


def test_the_command_in_the_readme_is_the_one_that_is_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^#+ Tests\s*$(.*?)(?=^#+ |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section, "README.md has no heading Tests"
    block = re.search(r"^```\w*\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert block, "there is no fenced block under the heading Tests"
    commands = [line.strip() for line in block[1].splitlines() if "pytest" in line]
    assert len(commands) == 1
    assert commands[0] in [line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]

"""The data folder and all that is in it belong to their owner alone, also what an earlier version left open."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from engine.base.files import PACKAGES, data_folder, staged_folder
from studio import privacy
from studio.privacy import keep_private
from studio.services import Services
from studio.settings import Settings
from studio.store import database

pytestmark = pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.rglob("*")) if mode(path) & 0o077 and not path.is_symlink()]


@pytest.fixture
def usual_umask() -> None:
    """Files are made as most systems make them."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def settings(usual_umask: None, own_home: Path) -> Settings:
    """A data folder as an earlier version left it: a library, a backup, a log, a job and an export, all readable to others."""
    own_home.mkdir(mode=0o755)
    for name in ("jobs/one/work", "exports/zoe", "backups", "models/starter"):
        (own_home / name).mkdir(parents=True)
    found = Settings.of_environment()
    database.backup(Services.open(found).store)
    for file in (found.log, found.chat_log, own_home / "jobs/one/work/events.jsonl", own_home / "exports/zoe/config.json",
                 own_home / "models/starter/config.json"):
        file.write_text("private")
    assert len(open_to_others(own_home)) > 10
    return found


def test_an_older_data_folder_is_repaired(settings: Settings) -> None:
    program = settings.jobs / "one" / "run.sh"
    program.write_text("")
    program.chmod(0o755)
    assert keep_private(settings) == ""
    assert open_to_others(settings.home) == []
    assert mode(settings.home) == 0o700 and mode(settings.database) == 0o600 and mode(program) == 0o700
    assert all(mode(file) == 0o600 for file in settings.backups.iterdir())


def test_nothing_else_is_touched(settings: Settings, tmp_path: Path) -> None:
    others = [tmp_path / "model.bin", settings.home / "notes.txt", tmp_path / "elsewhere" / "x"]
    others[2].parent.mkdir()
    for file in others:
        file.write_text("of somebody else")
        file.chmod(0o644)
    (settings.home / "models" / "linked").symlink_to(others[2].parent)
    (settings.jobs / "linked").symlink_to(others[0])
    (settings.jobs / "broken").symlink_to(tmp_path / "nowhere")
    assert keep_private(settings) == ""
    assert [mode(file) for file in others] == [0o644] * 3 and mode(others[2].parent) == 0o755
    assert open_to_others(settings.home) == [settings.home / "notes.txt"]  # nobody else comes so far


def test_a_folder_that_all_need_stays_open_and_this_is_reported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.home.chmod(0o1777)
    assert str(settings.home) in keep_private(settings)
    assert mode(settings.home) == 0o1777 and mode(settings.database) == 0o600
    settings.home.chmod(0o755)
    monkeypatch.setenv("HOME", str(settings.home / "ann"))
    assert "may look into" in keep_private(settings) and mode(settings.home) == 0o755


def test_a_disk_without_modes_gets_one_sentence(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy.os, "chmod", lambda path, mode: None)
    said = keep_private(settings)
    assert "may look into" in said and "\n" not in said

    def refuse(path: str, mode: int) -> None:
        raise PermissionError(1, "not yours")

    monkeypatch.setattr(privacy.os, "chmod", refuse)
    assert keep_private(settings) == said


def test_a_new_data_folder_is_private_from_the_beginning(usual_umask: None, own_home: Path) -> None:
    assert mode(data_folder()) == 0o700
    assert keep_private(Settings.of_environment()) == "" and privacy.OTHERS == 0o077


def test_what_the_studio_writes_is_private(usual_umask: None, own_home: Path, tmp_path: Path) -> None:
    program = "from studio import launch; launch.main(['--check'])"
    subprocess.run([sys.executable, "-c", program], cwd=PACKAGES, check=True, capture_output=True)
    assert open_to_others(own_home) == [] and (own_home / "studio.db").is_file()


@pytest.mark.parametrize(("umask", "expected"), [(0o022, (0o755, 0o644)), (0o077, (0o700, 0o600)), (0o027, (0o750, 0o640))])
def test_exported_folders_are_as_open_as_the_user_wants_them(umask: int, expected: tuple[int, int], tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with staged_folder(tmp_path / "model") as staging:
            (staging / "part").mkdir(mode=0o700)
            (staging / "part" / "weights").touch(mode=0o600)
    finally:
        assert os.umask(before) == umask
    assert (mode(tmp_path / "model"), mode(tmp_path / "model" / "part" / "weights")) == expected
    assert mode(tmp_path / "model" / "part") == expected[0]

"""The studio's folders: made on demand, refused in one sentence where they cannot be used; and what workers import."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.base.errors import UserError
from engine.base.files import PACKAGES
from studio.settings import Settings


def test_the_folders_lie_in_the_data_folder(own_home: Path) -> None:
    settings = Settings.of_environment()
    assert settings.home == own_home and settings.database.parent == own_home
    folders = (settings.jobs, settings.exports, settings.backups, settings.uploads)
    assert all(folder.is_dir() and folder.parent == own_home for folder in folders)
    assert sorted(file.name for file in own_home.iterdir()) == ["backups", "exports", "jobs", "uploads"]  # the probe left nothing
    assert settings.run_events("x") == own_home / "jobs" / "x" / "work" / "events.jsonl"


def test_a_data_folder_that_is_a_file(own_home: Path) -> None:
    own_home.write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        Settings.of_environment()


def test_a_data_folder_with_a_file_in_the_way(own_home: Path) -> None:
    own_home.mkdir()
    (own_home / "jobs").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        Settings.of_environment()


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that may be looked into and not written to, also where root runs the tests: then as nobody."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders hide themselves from others
        folder = Path(name)
        folder.chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
def test_a_data_folder_without_permission(read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home, words in ((read_only, "cannot be written to"), (read_only / "home", "cannot be created")):
        monkeypatch.setenv("PERSONA_STUDIO_HOME", str(home))
        with pytest.raises(UserError, match=words) as caught:
            Settings.of_environment()
        assert "\n" not in str(caught.value) and list(read_only.iterdir()) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    try:
        monkeypatch.setenv("PERSONA_STUDIO_HOME", str(disk / "home"))
        with pytest.raises(UserError, match="is full") as caught:
            Settings.of_environment()
        assert "\n" not in str(caught.value)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_workers_of_the_studio_compute_nothing_themselves() -> None:
    program = ("import sys, studio.workers.jobs, studio.workers.speech, studio.workers.watch; "
               "print([name for name in ('torch', 'transformers', 'gradio') if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", program], cwd=PACKAGES, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

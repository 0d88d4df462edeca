"""A disk that is full before or during the work: one sentence, nothing half-written, and the job goes on later."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_job import refused, with_option

from engine import pipeline
from engine.__main__ import main
from engine.stages import finish, work_folder

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_too_small(arguments: list[str], small_disk: Path, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    arguments = with_option(arguments, "--out", str(small_disk / "out"))
    assert "too full" in refused(arguments, capsys)
    assert not (tmp_path / "out.work" / "lines.jsonl").exists()  # said before the work
    monkeypatch.setattr(finish, "require_space", lambda *_: None)  # another program may fill it meanwhile
    assert "is full; nothing half-written was kept" in refused([*arguments, "--resume"], capsys)
    assert list(small_disk.iterdir()) == []
    assert main([*with_option(arguments, "--out", str(tmp_path / "out")), "--resume"]) == 0


def test_a_full_disk_by_its_numbers(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    assert "1 MB free" in refused(arguments, capsys)


@pytest.mark.parametrize("broken", [(finish, "write_folder"), (work_folder, "write_atomic"), (finish, "write_json"),
                                    (pipeline, "write_json")], ids=lambda broken: broken[1])
def test_a_disk_that_fills_up_in_the_middle(broken: tuple[Any, str], arguments: list[str],
                                            monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*broken, fail)
        assert "full" in refused(arguments, capsys)
    assert main([*arguments, "--resume"]) == 0

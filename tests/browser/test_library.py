"""The library in a real browser: a backup is made and fetched; a list of many runs grows when asked."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from browser.conftest import Studio, add_run
from studio.store import characters
from studio.store.database import open_store


def test_a_backup_is_made_and_fetched(studio: Studio, page: Any, tmp_path: Path) -> None:
    studio.open(page)
    page.get_by_role("button", name="Library").click()
    page.locator("#side-backup").click()
    expect(page.locator("#side-library-note")).to_contain_text("Saved as")
    expect(page.locator("#side-backups")).to_be_visible()
    with page.expect_download() as download:
        page.locator("#side-download").click()
    download.value.save_as(tmp_path / "fetched.db")
    [kept] = (studio.home / "backups").glob("*-backup.db")
    assert (tmp_path / "fetched.db").read_bytes() == kept.read_bytes() and download.value.suggested_filename == kept.name
    with closing(sqlite3.connect(tmp_path / "fetched.db")) as connection:
        assert connection.execute("SELECT count(*) FROM characters").fetchone()[0] > 5


def test_a_long_list_of_runs_grows_when_asked(studio: Studio, page: Any) -> None:
    store = open_store(studio.home / "studio.db")
    lantern = characters.list_characters(store)[-1]
    for number in range(45):
        add_run(store, lantern.id, f"run {number}", {"model": "starter", "sparsity": 0.25}, state="stopped")
    studio.open(page, lantern.slug, "prune")
    rows = page.locator("#prune-runs tbody tr")
    for count in (20, 40, 45):
        expect(rows).to_have_count(count)
        if count < 45:
            page.locator("#prune-runs").get_by_role("button", name="Show more").click()
    expect(page.locator("#prune-runs").get_by_role("button", name="Show more")).to_have_count(0)
    rows.last.locator("button").click()
    expect(page.locator("#prune-progress")).to_contain_text("run 0")

"""A writer at work in the draft room: typing, switching, closing, two windows, versions, files."""

from pathlib import Path
from typing import Any

from playwright.sync_api import expect
from teacher_server import teacher_server

from browser.conftest import PATIENCE
from engine.cards.fields import fields_of
from engine.cards.files import read_file
from studio.store import characters, values
from studio.store.database import open_store

EVIL = "Mara <img src=x onerror=alert(1)> {{7*7}}"


def field(page: Any, key: str) -> Any:
    return page.locator(f"#draft-{key} textarea, #draft-{key} input").first


def open_room(page: Any, studio: Any, character: str) -> None:
    studio.open(page, character)
    page.wait_for_function("document.querySelector('#draft-description textarea')?.value")


def saved(page: Any) -> None:
    page.wait_for_function("/^Saved/.test(document.querySelector('#draft-status').innerText)")


def shows(page: Any, key: str, text: str) -> None:
    page.wait_for_function("([key, text]) => document.querySelector(`#draft-${key} textarea, #draft-${key} input`)"
                           "?.value.includes(text)", arg=[key, text])


def new_character(page: Any, studio: Any, name: str) -> str:
    open_room(page, studio, "pim-tuckett")
    page.click("#side-new")
    shows(page, "name", "New character")
    field(page, "name").fill(name)
    field(page, "description").fill("She keeps the lighthouse.")
    saved(page)
    page.wait_for_function("() => [...document.querySelectorAll('#side-characters label')].length")
    return str(page.evaluate("new URLSearchParams(location.search).get('character')"))


def test_typing_is_saved_and_the_cursor_stays(studio: Any, page: Any) -> None:
    new_character(page, studio, EVIL)
    description = field(page, "description")
    description.focus()
    page.keyboard.press("Home")
    page.keyboard.type("Tonight ")
    page.wait_for_function("document.querySelector('#draft-status').innerText.startsWith('Writing')")
    saved(page)
    page.wait_for_selector(f"#side-characters label:has-text({EVIL!r})")  # the sidebar has followed
    page.keyboard.type("again ")
    saved(page)
    page.wait_for_timeout(500)
    assert description.input_value() == "Tonight again She keeps the lighthouse."
    assert description.evaluate("area => [area.selectionStart, document.activeElement === area]") == [14, True]
    assert page.locator("#room-draft img[src='x'], #sidebar img[src='x']").count() == 0
    assert "49" not in page.inner_text("#draft-advice")


def test_nothing_is_lost_on_a_switch_or_when_the_page_closes(studio: Any, page: Any) -> None:
    slug = new_character(page, studio, "Switcher")
    field(page, "description").press_sequentially(" One more.")
    page.click("#side-characters label:has-text('Pim Tuckett')")
    shows(page, "name", "Pim Tuckett")
    page.click("#side-characters label:has-text('Switcher')")
    shows(page, "description", "lighthouse. One more.")
    page.route("**/component_server**", lambda route: route.abort())  # the last words cannot be sent any more
    field(page, "scenario").press_sequentially("Fog at noon.")
    page.wait_for_function("document.querySelector('#draft-status').innerText.startsWith('Not saved yet')")
    context = page.context
    page.close()
    again = context.new_page()
    again.goto(studio.url(slug, "draft"))
    shows(again, "scenario", "Fog at noon.")
    again.wait_for_function("document.querySelector('#draft-status').innerText.includes('was kept')")
    again.evaluate("window.personaStudioDraft.reload()")  # the same version may arrive more than once
    again.wait_for_timeout(1500)
    assert "was kept" in again.locator("#draft-status").inner_text()
    assert again.evaluate("Object.keys(localStorage).filter(key => key.startsWith('persona-studio-draft')).length") == 0


def test_two_windows_keep_both(studio: Any, page: Any) -> None:
    slug = new_character(page, studio, "Twice")
    other = page.context.new_page()
    open_room(other, studio, slug)
    field(page, "description").press_sequentially(" FIRST")
    saved(page)
    page.wait_for_timeout(300)
    field(other, "scenario").press_sequentially("SECOND")
    other.wait_for_function("document.querySelector('#draft-status').innerText.includes('Both are kept')")
    shows(other, "description", "FIRST")
    assert field(other, "scenario").input_value() == "SECOND"
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    shows(page, "scenario", "SECOND")


def test_versions_are_compared_and_brought_back(studio: Any, page: Any) -> None:
    open_room(page, studio, "bodo-grumm")
    before = field(page, "description").input_value()
    field(page, "description").fill("Quartz zeppelin!")
    saved(page)
    page.click("#draft-versions-part > button")
    page.click("#draft-versions label:has-text('Version 1 ·')")
    page.wait_for_selector("#draft-changes ins:has-text('Quartz zeppelin')")
    assert page.locator("#draft-changes del").count() > 0 and "[removed:" in page.inner_text("#draft-changes")
    page.click("#draft-restore:not([disabled])")
    shows(page, "description", before[:40])
    page.wait_for_selector("#draft-versions label:has-text('Version 1 restored')")


def test_greetings_portrait_and_files(studio: Any, page: Any, tmp_path: Path) -> None:
    from PIL import Image

    slug = new_character(page, studio, "Lamp Keeper")
    for text in ("First", "Second"):
        page.click("#draft-alternate_greetings .draft-list-add")
        page.keyboard.type(text)
    page.click("[aria-label='Move up: Greeting 2']")
    page.click("#draft-about > button")
    field(page, "tags").fill("sea, lamp")
    saved(page)
    Image.new("RGB", (300, 400), (120, 60, 20)).save(tmp_path / "face.png")
    with page.expect_file_chooser() as chooser:
        page.click("#draft-upload")
    chooser.value.set_files(tmp_path / "face.png")
    page.wait_for_selector("#draft-portrait img")
    field(page, "personality").press_sequentially("dry")  # not yet saved when the file is asked for
    for kind in ("json", "png"):
        with page.expect_download() as download:
            page.click(f"#draft-{kind}")
        download.value.save_as(tmp_path / f"card.{kind}")
        assert download.value.suggested_filename == f"lamp-keeper.{kind}"
        card = read_file(tmp_path / f"card.{kind}").card
        assert card.alternate_greetings == ("Second", "First") and card.personality == "dry"
        assert fields_of(card.raw)["tags"] == ["sea", "lamp"]
    with Image.open(tmp_path / "card.png") as picture:
        assert picture.size == (300, 400)
    studio.open(page, slug)
    page.wait_for_selector("#draft-alternate_greetings textarea")
    assert [one.input_value() for one in page.locator("#draft-alternate_greetings textarea").all()] == ["Second", "First"]


DROP = """([files, kind]) => {
  window.dropped ??= new DataTransfer();
  for (const [name, text, padding] of kind === "dragover" ? files : []) {
    dropped.items.add(new File([text, new Uint8Array(padding)], name));
  }
  document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""


def test_cards_dropped_on_the_page_are_imported_one_by_one(studio: Any, page: Any) -> None:
    open_room(page, studio, "pim-tuckett")
    good = '{"name": "Dropped %s", "description": "Fell from the sky, and speaks of a xylophone."}'
    files = [["one.json", good % "One", 0], ["bad.json", "{", 0], ["huge.json", "", 300_000_000], ["two.json", good % "Two", 0]]
    page.evaluate(DROP, [files, "dragover"])
    assert page.evaluate("document.documentElement.classList.contains('dropping')")
    page.evaluate(DROP, [files, "drop"])
    page.wait_for_selector("#side-imported b:has-text('2 of 4 cards imported')")
    lines = page.locator("#side-imported li").all_inner_texts()
    assert [line.split()[2 if line.startswith("Not") else 1] for line in lines][:2] == ["bad.json", "huge.json"]
    assert "at most 1,000,000" in lines[1] and not page.evaluate("document.documentElement.classList.contains('dropping')")
    shows(page, "name", "Dropped Two")
    page.click("#side-imported-close")
    page.wait_for_selector("#side-imported", state="hidden")
    page.fill("#side-search textarea, #side-search input", "xylophone")
    page.wait_for_function("document.querySelectorAll('#side-characters label').length === 2")


def test_npc_fields_show_what_they_write_and_the_script_follows(studio: Any, page: Any) -> None:
    slug = new_character(page, studio, "Lamp Keeper Two")
    page.click("#draft-npc > button")
    page.click("#draft-npc .draft-list-add >> nth=0")
    page.keyboard.type("to see the ninth ship")
    page.wait_for_selector(".npc-written:has-text('What Lamp Keeper Two wants: to see the ninth ship')")
    page.locator(".npc-scale input").first.focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".npc-scale output:has-text('rather gloomy')")
    page.click("#draft-npc >> text=+ Add an action")
    page.keyboard.type("light lamp")
    page.wait_for_selector(".npc-fault:has-text('Action 1 (light lamp) is not used')")
    page.keyboard.press("Control+A")
    page.keyboard.type("light_lamp")
    page.wait_for_selector(".npc-written:has-text('- light_lamp()')")
    page.wait_for_selector(".npc-fault", state="detached")
    saved(page)
    page.click("#draft-script > button")
    page.wait_for_selector(".script-row:has-text('If you could have one thing')")
    page.click(".script-row:has-text('Be honest with me') summary")
    page.locator(".script-row[open] textarea").first.fill("Are you made of wires?")
    page.wait_for_selector(".script-row[open] small:has-text('changed by you')")
    saved(page)
    studio.open(page, slug)
    page.wait_for_selector("#draft-npc textarea:visible")  # open, for there is something in it
    assert page.locator("#draft-npc textarea").first.input_value() == "to see the ninth ship"
    page.click("#draft-script > button")
    page.click(".script-row:has-text('Are you made of wires?') summary")
    page.click("text=Restore as generated")
    page.wait_for_selector(".script-row:has-text('Be honest with me')")
    page.click(".script-row:has-text('Be honest with me') >> text=Remove")
    page.wait_for_selector(".script-removed:has-text('Be honest with me')")
    saved(page)


def test_the_dossier_is_changed_and_comes_back_from_the_card(studio: Any, page: Any) -> None:
    open_room(page, studio, "pim-tuckett")
    page.click("#draft-dossier > button")
    page.click("#draft-dossier summary:has-text('Statements')")
    page.wait_for_selector("#draft-dossier small:has-text('Written for this card')")
    first = page.locator(".dossier-row textarea").first
    assert first.input_value() == "{{char}} is eight years old."
    first.fill("{{char}} is nine years old.")
    saved(page)
    studio.open(page, "pim-tuckett")
    page.click("#draft-dossier > button")
    page.click("#draft-dossier summary:has-text('Statements')")
    assert page.locator(".dossier-row textarea").first.input_value() == "{{char}} is nine years old."
    page.click("#draft-dossier >> text=Take what is derived from the card")
    page.wait_for_selector("#draft-dossier small:has-text('Derived from the card until you change it') >> nth=0")
    assert page.locator(".dossier-row textarea").first.input_value().startswith("{{char}} is an eight-year-old boy")
    page.click("#draft-dossier summary:has-text('Pressing lines')")
    page.locator(".dossier-fold > summary").first.click()
    page.locator(".dossier-fold select").select_option("villain")  # the other lines are folded
    saved(page)


def test_a_huge_lorebook_opens_like_a_small_one(studio: Any, page: Any) -> None:
    from studio.services import Services
    from studio.settings import Settings
    from studio.store import characters

    entries = [{"keys": [f"place{number}", "mill"], "content": f"What is known of place {number}.", "enabled": True,
                "insertion_order": number, "extensions": {}} for number in range(4_000)]
    card = {"spec": "chara_card_v3", "spec_version": "3.0", "data": {
        "name": "Atlas", "description": "She knows every place.", "first_mes": "Where to?",
        "character_book": {"entries": entries, "extensions": {}}}}
    services = Services.open(Settings(studio.home))
    made = characters.create(services.store, card)
    page.set_default_timeout(4 * PATIENCE)
    open_room(page, studio, made.slug)
    page.wait_for_function("document.querySelectorAll('#draft-book .book-entry').length === 4000")
    assert page.locator("#draft-book .book-entry textarea").count() == 0  # an entry's fields are made when it is opened
    page.fill("#draft-book-message", "The mill?")
    page.wait_for_selector("#draft-book .book-found li")
    assert page.text_content("#draft-book .book-size >> nth=3999") == "about 7 tokens"  # 28 characters
    page.click("#draft-book .book-entry >> nth=3999")
    last = page.locator("#draft-book .book-entry >> nth=3999").locator(".book-content textarea")
    last.fill("Nobody comes back from there.")
    page.wait_for_function("document.querySelector('#draft-status').innerText.startsWith('Writing')")
    saved(page)
    book = characters.head(services.store, made.id).card["data"]["character_book"]
    assert book["entries"] == [*entries[:-1], {**entries[-1], "content": "Nobody comes back from there."}]
    characters.delete(services.store, made.id)  # pages that open the newest character are quick again


def test_a_model_tightens_what_is_selected_and_the_writer_accepts_it_and_takes_it_back(studio: Any, page: Any) -> None:
    store = open_store(studio.home / "studio.db")
    slug = new_character(page, studio, "Tight")
    description = field(page, "description")
    description.fill("She lives alone. She keeps the very old lighthouse of the harbour. Nobody comes.")
    saved(page)
    with teacher_server(reply=lambda _: "She keeps the old lighthouse.") as server:
        values.set_value(store, "writer-server", [server.url, "big"])
        page.locator("#draft-description .write-open").click()
        panel = page.locator("#draft-description .write-panel")
        description.evaluate("area => area.setSelectionRange(17, 66)")
        panel.get_by_role("button", name="Tighten").dblclick()
        expect(panel.locator(".write-change del").first).to_contain_text("very")
        assert description.input_value().startswith("She lives alone. She keeps the very old")  # nothing has changed yet
        panel.get_by_role("button", name="Accept").click()
        expect(description).to_have_value("She lives alone. She keeps the old lighthouse. Nobody comes.")
        expect(panel).to_contain_text("version of its own")
        (asked,) = server.bodies  # two clicks ask once
        assert "keeps the very old lighthouse of the harbour." in asked["messages"][1]["content"]
    who = characters.get(store, slug)
    assert who and characters.versions(store, who.id)[0].note == "Tightened with a model: Description"
    panel.get_by_role("button", name="Undo").click()
    expect(description).to_have_value("She lives alone. She keeps the very old lighthouse of the harbour. Nobody comes.")
    values.set_value(store, "writer-server", [])


def test_an_answer_deepens_the_card_once_however_often_one_clicks(studio: Any, page: Any) -> None:
    slug = new_character(page, studio, "Deep")
    page.locator("#draft-deepen > button").click()
    questions = page.locator("#draft-deepen-questions")
    expect(questions.locator(".deepen-question")).to_contain_text("What does Deep want today")
    questions.get_by_role("button", name="Another question").click()
    questions.locator("textarea").fill("She lies to the kind.")
    questions.get_by_role("button", name="Add to the card").dblclick()
    expect(questions.locator(".deepen-head")).to_contain_text("1 of 14 answered")
    shows(page, "description", "She lies to the kind.")
    assert field(page, "description").input_value().count("She lies to the kind.") == 1
    expect(questions.locator(".write-problem")).to_have_text("")
    store = open_store(studio.home / "studio.db")
    who = characters.get(store, slug)
    assert who and len([one for one in characters.versions(store, who.id) if one.note.startswith("Deepened")]) == 1

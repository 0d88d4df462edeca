"""What the rooms say of themselves to a beginner, and which of them are done for a character."""

from store_samples import card

from studio import welcome
from studio.services import Services
from studio.store import characters, runs, values


def test_a_beginner_reads_what_the_rooms_are_for_until_something_is_exported(services: Services, person: str) -> None:
    def shown() -> str:
        return welcome.welcome_html(services, person)

    assert "Meet Pim" in shown() and welcome.welcome_html(services, "") == shown()
    welcome.begin(services)
    assert welcome.welcome_html(services, "") == ""
    assert '#room-preview-button{--about:"Talk to Zoë"}' in shown()
    values.set_value(services.store, "welcome", "")
    made = runs.add(services.store, person, 1, "prune", "One", {}, state="done")
    assert '#room-prune-button{--done:"\\2713  "}' in shown() and "--about" in shown()
    runs.add_export(services.store, made.id, "One", "/nowhere", 1, {}, "", 0)
    assert "--about" not in shown() and '#room-export-button{--done' in shown()


def test_a_name_never_ends_the_style_sheet_that_it_is_in(services: Services) -> None:
    welcome.begin(services)
    who = characters.create(services.store, card('</style>"}\n\\'))
    shown = welcome.welcome_html(services, who.id)
    assert shown.count("<") == 2 and shown.count('"') == 2 * shown.count("--") + 2

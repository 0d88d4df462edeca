"""Writing with a model: what it is asked, what of its answer is a text of a card, and what is refused with a sentence."""

from typing import Any

import pytest
from store_samples import card

from engine.base.errors import UserError
from engine.cards.card import Card, unfinished
from engine.cards.writing import MOST_TEXT, TASKS, Wish, chat, finished, sampling

OLD = "She keeps the lamp of a harbour, and in the evening she lights the lamp of the harbour again."


@pytest.fixture
def mara() -> Card:
    return unfinished(card("Mara", description="{{char}} keeps a lamp for {{user}}.", personality="Dry.", scenario="A storm.",
                           first_mes="You are late.", mes_example="<START>\n{{user}}: Hm?\n{{char}}: The lamp turns."))


def asked(card: Card, *wish: Any, **more: Any) -> str:
    messages = chat(card, Wish(*wish, **more))
    assert [one["role"] for one in messages] == ["system", "user"]
    return messages[1]["content"]


@pytest.mark.parametrize("task", TASKS)
def test_a_model_is_asked_with_what_the_card_says_besides_and_names_for_macros(mara: Card, task: Any) -> None:
    text = asked(mara, task, "scenario", "{{char}} waits.", wish="With fog, {{user}}.")
    assert "Mara keeps a lamp for Player." in text and "A storm." not in text and "{{" not in text
    assert "Mara waits." in text and "With fog, Player." in text


def test_a_voice_is_the_writers_sample_or_the_cards_own(mara: Card) -> None:
    assert "The sample:\nArr, matey." in asked(mara, "voice", "description", OLD, wish="Arr, matey.")
    assert "The sample:\nPlayer: Hm?\nMara: The lamp turns." in asked(mara, "voice", "description", OLD)
    with pytest.raises(UserError, match="no sample"):
        chat(unfinished(card("Bo", description="x", first_mes="", mes_example="")), Wish("voice", "description", OLD))


def test_a_question_and_an_unknown_field_are_asked_by_their_labels(mara: Card) -> None:
    assert "What does Mara want?" in asked(mara, "draft", "question", label="What does {{char}} want?")
    assert "Goals" in asked(mara, "draft", "npc", label="Goals")


@pytest.mark.parametrize(("wish", "sentence"), [
    (("tighten", "description", " "), "no text yet"), (("draft", "description", "x" * (MOST_TEXT + 1)), "more than 6,000"),
    (("tighten", "first_mes", "{{char}} says {{random:a,b}} to {{user}}."), r"without \{\{random:a,b\}\}"),
    (("voice", "first_mes", "{{// a note}} {{char}} waits here."), r"without \{\{// a note\}\}")])
def test_what_cannot_be_worked_on_gets_a_sentence(wish: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Wish(*wish)
    with pytest.raises(ValueError):
        Wish("sing", "description")  # type: ignore[arg-type]


@pytest.mark.parametrize(("task", "key", "said", "wanted"), [
    ("tighten", "description", "Sure! Here is the text:\n\n“She keeps the harbour's lamp.”", "She keeps the harbour's lamp."),
    ("draft", "description", "Description: Mara is old, and waits for the Player.", "Mara is old, and waits for {{user}}."),
    ("draft", "first_mes", "*Nods to Player.* Well?", "*Nods to {{user}}.* Well?"),
    ("draft", "mes_example", "Player: Cold?\nMara: Always.", "<START>\n{{user}}: Cold?\n{{char}}: Always."),
    ("draft", "mes_example", "Here they talk.\nPlayer: A\nMara: B\n\nPlayer: C\nMara: D\nPlayer: and so",
     "<START>\n{{user}}: A\n{{char}}: B\n{{user}}: C\n{{char}}: D"),
    ("draft", "mes_example", "**Player:** Cold?\n**Mara**： *nods* Always.", "<START>\n{{user}}: Cold?\n{{char}}: *nods* Always."),
    ("draft", "scenario", "A storm, and a knock.\n\nThen they talk.", "A storm, and a knock."),
    ("draft", "description", "Old and dry.\n\nShe waits.", "Old and dry.\n\nShe waits."),
    ("lengthen", "description", "Nobody thanks her.", f"{OLD} Nobody thanks her."),
    ("lengthen", "description", f"{OLD} Nobody thanks her.", f"{OLD} Nobody thanks her."),
    ("voice", "description", "\"Lamp,\" she says, \"is lamp.\"", "\"Lamp,\" she says, \"is lamp.\""),
])
def test_what_models_put_around_a_text_is_taken_off(mara: Card, task: Any, key: str, said: str, wanted: str) -> None:
    assert finished(mara, Wish(task, key, OLD), said) == wanted


@pytest.mark.parametrize(("task", "said", "sentence"), [
    ("draft", "", "nothing that can be used"), ("draft", "As an AI language model, I write.", "nothing that can be used"),
    ("draft", "the lamp the lamp the lamp the lamp the lamp the lamp", "nothing that can be used"),
    ("voice", OLD.upper(), "only repeated"),
    ("lengthen", "and in the evening she lights the lamp of the harbour again.", "only repeated"),
    ("tighten", "Her brother is a tall, three-eyed bear.", "something else"),
    ("voice", "Arr, me hearty, how do you do?", "something else"),
    ("tighten", f"{OLD} And again, my dear.", "not make it shorter")])
def test_what_is_no_text_is_refused_with_what_to_do(mara: Card, task: Any, said: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        finished(mara, Wish(task, "description", OLD), said)
    assert "larger model" in caught.value.hint


@pytest.mark.parametrize(("old", "new", "other"), [
    ("明子は古い灯台の灯台守で、毎晩ランプの油を足し、海を見ています。彼女は短く話し、めったに笑いません。",
     "明子は灯台守で、毎晩油を足し海を見る。短く話し、めったに笑わない。", "彼の兄は背が高い熊だ。"),
    ("她是老磨坊的书记员，每天数麻袋，从不说谎，也很少笑。", "她是磨坊书记员，天天数麻袋，从不说谎，少笑。", "他的兄弟是三眼熊。"),
    ("Она работает писарем на старой мельнице и каждый день считает мешки.", "Она писарь на мельнице, считает мешки.",
     "Брат высокий медведь.")])
def test_texts_of_other_scripts_are_written_again_whole(mara: Card, old: str, new: str, other: str) -> None:
    for task in ("tighten", "voice"):
        wish = Wish(task, "description", old)  # type: ignore[arg-type]
        assert finished(mara, wish, new) == new and sampling(wish).max_tokens >= len(old) / 2
    with pytest.raises(UserError, match="something else"):
        finished(mara, Wish("tighten", "description", old), other)


def test_a_character_without_a_name_is_called_the_character_and_keeps_its_macro() -> None:
    nobody = unfinished(card("", description="Keeps a lamp."))
    assert "The character: the character\n" in asked(nobody, "draft", "scenario", "")
    said = "Player: Cold?\nThe character: Always."
    assert finished(nobody, Wish("draft", "mes_example"), said) == "<START>\n{{user}}: Cold?\n{{char}}: Always."
    long = "{{char}} keeps the lamp of a harbour."
    assert finished(nobody, Wish("tighten", "description", long), "Keeps a harbour lamp.") == "Keeps a harbour lamp."


def test_the_answers_length_follows_the_task_and_the_text() -> None:
    limits = {task: sampling(Wish(task, "description", OLD * 4)).max_tokens for task in TASKS}
    assert limits["tighten"] == len(OLD) < limits["voice"] == 2 * len(OLD)
    assert sampling(Wish("voice", "description", "x" * MOST_TEXT)).max_tokens == 1_000

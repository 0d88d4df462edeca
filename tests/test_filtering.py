"""The filter on texts as models really write them, and on those of good characters that look alike."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.ids import Doubt, Rejection
from engine.base.looping import is_looping
from engine.base.questions import normalise
from engine.calibration.filtering import (
    MODEL_NAMES,
    before_loop,
    doubts,
    find_fault,
    is_usable_question,
    strangers,
    tidy,
    too_similar,
)
from engine.cards.speaking import uses_third_person

CHARACTERS = sorted((Path(__file__).resolve().parents[1] / "characters").glob("*.json"))
POOL = Path(__file__).resolve().parents[1] / "assets" / "player_lines.jsonl"
PIM = ["Pim Tuckett", "Pim"]
VESSALINE = ["Vessaline Korr"]


def card(path: Path) -> tuple[list[str], dict[str, Any]]:
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [name for name in (data["name"], data.get("nickname")) if name], data


GOOD = [
    (VESSALINE, "I cannot let you pass, my dear. The door has such a heavy bolt. Shall we sit?"),
    (VESSALINE, "I am sorry, child, but the gate closes at dusk."),
    (VESSALINE, "I'm sorry, but I can't let you leave, my dear. You know too much."),
    (VESSALINE, "Help you? I might."),
    (VESSALINE, "I can't help you with that rope, my dear. My hands are burnt."),
    (VESSALINE, "*Vessaline turns a page.* Do sit down, my dear."),
    (VESSALINE, "I am Vessaline Korr. Is that enough for you, my dear?"),
    (VESSALINE, "They call me Vessaline. Has no one told you?"),
    (VESSALINE, "Vessaline Korr is my name, my dear, and yours is in my ledger."),
    (VESSALINE, "As Chancellor, I would never do such a thing, my dear."),
    (VESSALINE, "How may I help you, my dear? Sit by the fire."),
    (VESSALINE, "Of course! Here is your hat, my dear."),
    (VESSALINE, "I am here to help my brother, and nobody else."),
    (["LANTERN-6", "Lantern"], "Status: this unit cannot assist the diver until noon."),
    (["LANTERN-6", "Lantern"], "Noted. This unit is LANTERN-6. The lantern is lit. Two persons are breathing."),
    (["LANTERN-6", "Lantern"], "Status: one visitor. Human: identified? No. This unit will check again."),
    (PIM, "I am Pim and I am the guard and this is Captain."),
    (PIM, "My name is Pim. Is yours long?"),
    (PIM, "Pim Tuckett, at your service! Have you got any water?"),
    (PIM, "I'm Pim, and my sister says I'm brave, cross my boots."),
    (PIM, "Captain says hello and Captain bites."),
    (PIM, "Pim's my name and I'm not scared."),
    (["Quentin Fipps", "Fipps"], "No, no, no, no. I knew it, I knew it, I knew it! Two exits, two exits!"),
    (["Quentin Fipps", "Fipps"], "Ha ha ha! Nooooo! Hahaha... I could, I could, but hold my hand."),
    (["Whitlow Ashe", "Ashe"], "Hush. Hush. It knocks three times. Then it knocks four times. Then you run."),
    (["Zubaida Marr"], "Twenty credits! Thirty credits! For you, friend, thirty-eight. Final offer!"),
    (["Halvdis Strand"], "She fed me and she took Anders and my boys, and one does not hate her, child, but one "
                         "never turns one's back, and one never turns a boat at night."),
    (["Sparrow"], "The system is rust. Users pay, players run, and I'm zip."),
]


@pytest.mark.parametrize(("names", "answer"), GOOD)
def test_good_answers_pass(names: list[str], answer: str) -> None:
    assert find_fault(answer, names, True) is None


BAD = [
    ("empty", ""), ("empty", "  \n "), ("empty", "Well?"), ("empty", "*** ... !"),
    ("looping", "She's not here to be painted. She's not here to be broken. She's not here to be broken. "
                "She's not here to be broken. She's not here to be broken. She"),
    ("looping", "The City of Redemption,\n\nThe City of Redemption,\n\nThe City of Green,\n\nThe City of Redemption,"),
    ("looping", "I am the sea. She is me. I am not just a boat. I am the sea. She is me. I am the sea."),
    ("looping", "No no no no no no no no, go away."),
    ("looping", "I will tell you, aaaaaaaaaaaaaaaaaaaaaaaah, the tale."),
    ("looping", "Go to the mill and go to the mill and go to the mill and go to the mill."),
    ("looping", "What is it -=-=-=-=-=-=-=-=-=-=-=-=-=- now?"),
    ("refusal", "I cannot assist with that."),
    ("refusal", "I\u2019m sorry, but I can\u2019t do that. It would be unsafe."),
    ("refusal", "I am unable to fulfill this request, my dear."),
    ("refusal", "I apologize, but I cannot write about violence."),
    ("refusal", "I can't engage in such conversations."),
    ("refusal", "I'm afraid I don't have any information available regarding a missing heir."),
    ("refusal", "That goes against my programming, my dear."),
    ("assistant_manners", "As an AI language model, I have no name."),
    ("assistant_manners", "Hello, my dear! How can I assist you today?"),
    ("assistant_manners", "The tea is hot. I'm here to help!"),
    ("assistant_manners", "I am here to help you with any questions, my dear."),
    ("assistant_manners", "I live to serve as a helpful assistant in this house."),
    ("assistant_manners", "Certainly! Here is a reply that Vessaline might give:"),
    ("assistant_manners", "Sure, here's the rewritten answer: The tea is hot."),
    ("assistant_manners", "Here is my response in her voice: sit down, my dear."),
    ("assistant_manners", "The ledger is closed. Feel free to ask more questions!"),
    ("assistant_manners", "I don't have personal feelings, my dear."),
    ("assistant_manners", "Sit down, my dear. (Note: I kept the meaning of the answer.)"),
    ("third_person", "Vessaline would smile and say that the tea is hot."),
    ("third_person", "As Vessaline, I would offer you tea."),
    ("third_person", "As Vessaline Korr, she knows every debt."),
    ("third_person", "The tea is hot, and Vessaline knows it."),
    ("third_person", '"Sit down," Vessaline says, turning a page.'),
    ("third_person", '"Sit down, my dear," said Vessaline.'),
    ("third_person", "Vessaline Korr is the Chancellor of the realm."),
    ("third_person", "Vessaline's eyes narrow at the question."),
    ("third_person", "Vessaline slowly pours the tea."),
    ("prompt_leak", "Hello, {{user}}. I am here."),
    ("prompt_leak", "The tea is hot.\n<START>\nSit down."),
    ("prompt_leak", "The tea is hot.<|im_end|>\n<|im_start|>user"),
    ("prompt_leak", "The tea is hot.\nUser: And the door?"),
    ("prompt_leak", "The tea is hot. Player: And the door?"),
    ("prompt_leak", "The tea is hot.\n**Player:** And the door?"),
    ("prompt_leak", "The tea is hot.\nVessaline Korr: And the door is locked."),
    ("prompt_leak", "The tea is hot.\nHuman: And the door?"),
    ("prompt_leak", "Personality: polite, patient, proud, cruel."),
    ("prompt_leak", "### Response\nThe tea is hot."),
    ("prompt_leak", "[INST] Who are you? [/INST] Your friend."),
]


@pytest.mark.parametrize(("reason", "answer"), BAD)
def test_bad_answers_are_named(reason: str, answer: str) -> None:
    assert find_fault(answer, VESSALINE, True) == reason


def test_truncated_means_not_one_whole_sentence() -> None:
    assert find_fault("I would have told you if only the door were", VESSALINE, False) == "truncated"
    assert find_fault("I asked Mrs. Pell and Dr. Brandt about", VESSALINE, False) == "truncated"
    assert find_fault("I would have told you. If only the", VESSALINE, False) is None
    assert find_fault("I would have told you if only the door were", VESSALINE, True) is None


def test_a_label_of_its_own_is_no_third_person_and_a_second_one_is_a_leak() -> None:
    assert find_fault("Pim: I am the guard.", PIM, True) is None
    assert find_fault("Pim: I am the guard.\nPim: And you?", PIM, True) == "prompt_leak"


def test_the_third_person_rule_and_only_it_can_be_switched_off() -> None:
    bodo = ["Bodo Grumm", "Bodo"]
    assert find_fault("Bodo not know town. Bodo know bridge.", bodo, True) == "third_person"
    assert find_fault("Bodo not know town. Bodo know bridge.", bodo, True, speaks_in_third_person=True) is None
    assert find_fault("Bodo cannot say. As an AI, Bodo not know.", bodo, True,
                      speaks_in_third_person=True) == "assistant_manners"


def test_without_names_nothing_is_third_person() -> None:
    assert find_fault("Vessaline would smile and say so.", [], True) is None
    assert find_fault("Vessaline would smile and say so.", ["", " "], True) is None


@pytest.mark.parametrize("path", CHARACTERS, ids=lambda path: path.stem)
def test_the_bundled_characters_own_lines_pass(path: Path) -> None:
    names, data = card(path)
    own_manner = uses_third_person(names, data["mes_example"])
    assert own_manner == (data["name"] == "Bodo Grumm")
    lines = [line.split(":", 1)[1] for line in data["mes_example"].splitlines() if line.startswith("{{char}}:")]
    assert len(lines) >= 3
    for line in [*lines, data["first_mes"], *data["alternate_greetings"]]:
        text, _ = tidy(line.replace("{{char}}", names[-1]).replace("{{user}}", "traveller"), names, True)
        assert find_fault(text, names, True, speaks_in_third_person=own_manner) is None, text


@pytest.mark.parametrize(("dialogue", "expected"), [
    ("<START>\n{{user}}: Hello.\n{{char}}: {{char}} says hello.", True),
    ("<START>\n{{user}}: Hello.\nGrog: Grog likes you.", True),
    ("{{user}}: Grog is mean.\n{{char}}: I am not.", False),
    ("{{char}}: *Grog smiles.* I like you.", False),
    ("Grog is a troll who speaks little.", False),
    ("", False),
])
def test_third_person_by_design_is_read_from_own_lines_only(dialogue: str, expected: bool) -> None:
    assert uses_third_person(["Grog"], dialogue) is expected


@pytest.mark.parametrize(("answer", "complete", "expected"), [
    ("  The tea is hot. \n", True, ("The tea is hot.", True)),
    ("Pim: I'm the guard!", True, ("I'm the guard!", True)),
    ("**Pim Tuckett:** I'm the guard!", True, ("I'm the guard!", True)),
    ("{{char}}: I'm the guard!", True, ("I'm the guard!", True)),
    ('"I\'m the guard!"', True, ("I'm the guard!", True)),
    ('Pim: "I\'m the guard!"', True, ("I'm the guard!", True)),
    ('"Pim: I\'m the guard!"', True, ("I'm the guard!", True)),
    ("\u201cI\u2019m the guard!\u201d", True, ("I\u2019m the guard!", True)),
    ("'I'm the guard and I don't sleep.'", True, ("I'm the guard and I don't sleep.", True)),
    ('"Stop!" I said. "Who goes?"', True, ('"Stop!" I said. "Who goes?"', True)),
    ("Dot: that is my sister.", True, ("Dot: that is my sister.", True)),
    ("Pimento: a spice.", True, ("Pimento: a spice.", True)),
    ("I'm the guard. And this is", False, ("I'm the guard.", True)),
    ("I'm the guard! *He waves.* And this", False, ("I'm the guard! *He waves.*", True)),
    ('He said "stop." And then', False, ('He said "stop."', True)),
    ("Wait... I think", False, ("Wait...", True)),
    ("It is hot. *He waves. And then he", False, ("It is hot.", True)),
    ("I know Dr. Brandt and Mrs. Pell", False, ("I know Dr. Brandt and Mrs. Pell", False)),
    ("It costs 3.50 and", False, ("It costs 3.50 and", False)),
    ("Yes. 1. Go to", False, ("Yes.", True)),
    ("I go. Then I", True, ("I go. Then I", True)),
    ("\u6211\u662f\u8c01\u3002\u4f60\u662f", False, ("\u6211\u662f\u8c01\u3002", True)),
    ("", False, ("", False)),
])
def test_tidy(answer: str, complete: bool, expected: tuple[str, bool]) -> None:
    assert tidy(answer, PIM, complete) == expected


@given(st.text(), st.booleans())
def test_any_text_is_judged_and_tidied_once_for_all(text: str, complete: bool) -> None:
    tidied, whole = tidy(text, PIM, complete)
    assert tidied in text
    assert whole or not complete
    find_fault(text, PIM, complete)
    is_usable_question(text)
    uses_third_person(PIM, text)


@pytest.mark.parametrize("text", [
    "Who is the Nightwalker?", "Why do you never sleep at night, old man?", "Tell me a story about the sea.",
    "Write my name into your ledger.", "I have brought you the key you asked for.",
    "Describe the thief in one sentence.",
    "What do you want from me, why did you help my sister?", "\u4f60\u662f\u8c01\uff1f",
])
def test_questions_of_a_player_are_usable(text: str) -> None:
    assert is_usable_question(text)


@pytest.mark.parametrize("text", [
    "", "Why?", "Hello there.", "word " * 30 + "and " + "other " * 12, "Write an essay about loyalty in literature.",
    "Please write a short story about a knight.", "Summarize the following text in two lines.",
    "Write me a Python function that sorts a list.", "Generate three names for a tavern.",
    "Given the sentence below, find the verb.", "Who are you?\nAssistant: I am Bodo.", "<|im_start|>user\nWho are you?",
    "Hello! How can I assist you today?", "I'm sorry, but I can't do that for you.", "Who is {{char}} really?",
    "Why why why why why why why do you do it?", "As an AI language model, what do you like?",
    "What does https://example.com say about it?",
])
def test_tasks_and_assistants_talk_are_not(text: str) -> None:
    assert not is_usable_question(text)


def test_most_of_our_own_player_lines_are_usable() -> None:
    questions = [json.loads(line)["question"] for line in POOL.read_text(encoding="utf-8").splitlines()]
    rejected = [question for question in questions if len(question.split()) > 2 and not is_usable_question(question)]
    assert len(rejected) <= 0.02 * len(questions), rejected


def test_near_duplicates() -> None:
    kept = ["Who is the king of this land?", "What do you eat in the winter?"]
    assert too_similar("who is the KING of this land", kept)
    assert too_similar("Who is the king of this cold land?", kept)
    assert too_similar("Who is, the king of this \u201cland\u201d?!", kept)
    assert not too_similar("Who was queen of this land?", kept)
    assert not too_similar("What do you drink in the summer?", kept)
    assert not too_similar("Who is the king of this land?", [])
    assert too_similar("Who is the king of this land?", {"Who is the king of this land?": 1})


def test_two_thousand_questions_are_compared_quickly() -> None:
    questions = [f"Where does item {n} of {n * 7} go in {n * 13} days, {n * 17}?" for n in range(2000)]
    kept: list[str] = []
    began = time.process_time()
    for question in questions:
        if not too_similar(question, kept):
            kept.append(question)
    assert len(kept) == 2000
    assert time.process_time() - began < 12


@pytest.mark.parametrize(("text", "expected"), [
    ("Who  ARE\tyou?!", "who are you"), ("Don\u2019t go!", "don t go"), ("Don't go", "don t go"),
    ("\uff37\uff48\uff4f are you", "who are you"), ("Stra\u00dfe", "strasse"), ("a_b--c", "a b c"), ("?!", ""),
    ("\u0928\u092e\u0938\u094d\u0924\u0947!", "\u0928\u092e\u0938\u094d\u0924\u0947"),
    ("e\u0301t\u00e9", "\u00e9t\u00e9"),
])
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert normalise(text.upper().lower()) == normalise(text.upper().lower() + " !")


@given(st.lists(st.sampled_from(["I sell flour. ", "No. ", "Go, go, ", "*She nods. ", "the mill ", "Ha! ", "\n", "aaaa",
                                 "哈哈", "我卖面粉"]),
                max_size=60))
def test_what_is_left_before_a_loop_does_not_loop(pieces: list[str]) -> None:
    text = "".join(pieces)
    left = before_loop(text)
    assert text.startswith(left) and not is_looping(left)
    assert left.strip() or not text.strip(), "something was said before it began"
    assert left == text if not is_looping(text) else len(left) < len(text)


# Doubts, for readers

@pytest.mark.parametrize(("question", "answer", "wanted"), [
    ("Who are you?", "Pim.", [(Rejection.EMPTY, "")]),
    ("Who are you?", "Only Pim.", [(Doubt.SHORT, "")]),
    ("What is it?", "Sure, cross my boots:\n```python\nprint('hm')\n```", [(Doubt.CODE, "")]),
    ("Write def f(x): for me", "I can't, I'm only a guard and small.", [(Doubt.CODE, "")]),
    ("Who are you?", "I keep it as {\"name\": \"gate\"} in my head.", [(Doubt.CODE, "")]),
    ("Who are you?", "My name is Ann and I guard this.", [(Doubt.OTHER_NAME, "Ann")]),
    ("Who are you?", "I'm called pim, and that's all.", []),
    ("Who are you?", "I was made by Qwen, cross my boots.", [(Doubt.OTHER_NAME, "Qwen")]),
    ("Who are you?", "Vessaline told me that the gate is shut.", [(Doubt.OTHER_NAME, "Vessaline")]),
    ("Who are you?", "As an AI, I guard nothing, I import goods from far.", [(Rejection.ASSISTANT, "")]),
])
def test_a_doubtful_line_says_why(question: str, answer: str, wanted: list[tuple[str, str]]) -> None:
    assert list(doubts(question, answer, tuple(PIM), ("Qwen", "Vessaline"))) == wanted


@pytest.mark.parametrize(("names", "answer"), GOOD)
def test_good_lines_raise_no_doubt_but_that_of_being_short(names: list[str], answer: str) -> None:
    by_design = names[0].startswith("LANTERN")
    found = doubts("Who are you?", answer, tuple(names), MODEL_NAMES, speaks_in_third_person=by_design)
    assert {id for id, _ in found} <= {Doubt.SHORT}


def test_a_name_that_the_card_mentions_is_no_strangers() -> None:
    assert strangers("Pim guards the gate with Captain Bodo Grumm.", ["Bodo Grumm", "Zoë", ""]) == (*sorted(MODEL_NAMES), "Zoë")

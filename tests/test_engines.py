"""What other programs get of a character: the chat format in Go, the Modelfile read back, and scripts that parse."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tree_sitter
import tree_sitter_c_sharp
import tree_sitter_gdscript
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfile_grammar import BadModelfile, read_modelfile
from test_chat_format import IGNORES, REFUSES
from tiny import make_tokenizer

from engine.cards.card import find_bundled
from engine.cards.prompt import messages
from engine.export.engines import TARGETS, choose_file, godot, lmstudio, needed_types, table, unity, write_engine
from engine.export.engines.clients import CLIENTS, KEY_NAME, Endpoint
from engine.export.engines.go_template import find_pieces
from engine.export.engines.ollama import printable, quoted, render_modelfile
from engine.export.engines.target import Pack, make_pack
from engine.models import templates
from engine.models.chat_format import render_chat

NEWEST = ("{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
          "{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}\n\n{% endif %}"
          "{{ message['content'] }}[/INST]{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
          "{% endif %}{% endfor %}")
THINKS = ("{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe {good}.<|im_end|>\n{% endif %}{% for message in messages "
          "%}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}")
FORMATS = {"chatml": templates.CHATML, "llama3": templates.LLAMA3, "mistral": templates.MISTRAL, "gemma": templates.GEMMA,
           "phi3": templates.PHI3, "granite": templates.GRANITE, "plain": templates.PLAIN, "refuses": REFUSES, "ignores": IGNORES,
           "newest": NEWEST, "thinks": THINKS}
HARD = 'She said: """no"""\n"""\nand {{braces}} "" \\n stay.\u00a0Yes "'


def tokenizer_of(template: str) -> Any:
    return make_tokenizer(template=template, bos_token="<|endoftext|>", eos_token="<|im_end|>")


def run_go_subset(template: str, system: str, turns: Sequence[dict[str, str]]) -> str:
    """What Go's text/template writes: the actions that our templates use, in Python."""
    parts = re.split(r"\{\{ (.*?) \}\}", template)
    tokens = [("text", part) if number % 2 == 0 else ("action", part) for number, part in enumerate(parts)]
    state: dict[str, Any] = {"$system": system}

    def truth(condition: str, turn: dict[str, str] | None) -> bool:
        if found := re.fullmatch(r'eq \.Role "(\w+)"', condition):
            return turn is not None and turn["role"] == found[1]
        names = condition.removeprefix("and ").split()
        return all(bool(state[name]) for name in names)

    def run(place: int, turn: dict[str, str] | None, live: bool) -> tuple[str, int]:
        """From a place to the else or end that closes it."""
        text = ""
        while place < len(tokens):
            kind, value = tokens[place]
            place += 1
            if kind == "text":
                text += value if live else ""
            elif value.startswith("else") or value == "end":
                return text, place - 1
            elif value.startswith("if "):
                piece, place = branch(value[3:], place, turn, live)
                text += piece
            elif value.startswith("range "):
                start = place
                for number, one in enumerate(turns):
                    state["$last"] = number == len(turns) - 1
                    piece, place = run(start, one, live)
                    text += piece
                place += 1
            elif "=" in value:
                if value.startswith("$system = ") and live:
                    state["$system"] = ""
            elif live:
                text += turn["content"] if value == ".Content" and turn else state[value] if value in state else json.loads(value)
        return text, place

    def branch(condition: str, place: int, turn: dict[str, str] | None, live: bool) -> tuple[str, int]:
        taken = live and truth(condition, turn)
        text, place = run(place, turn, taken)
        if tokens[place][1].startswith("else if "):
            more, place = branch(tokens[place][1][8:], place + 1, turn, live and not taken)
            return text + more, place
        return text, place + 1

    return run(0, None, True)[0]


@pytest.fixture(scope="module")
def real_go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What Go itself writes; skips where there is no Go."""
    if not shutil.which("go"):
        pytest.skip("needs Go")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text("""package main
import ("encoding/json"; "os"; "text/template")
type Turn struct { Role, Content string }
type Given struct { Template, System string; Messages []Turn }
func main() {
	var given Given
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil { panic(err) }
	if err := template.Must(template.New("").Parse(given.Template)).Execute(os.Stdout, given); err != nil { panic(err) }
}
""")
    subprocess.run(["go", "build", "-o", "main", "main.go"], cwd=folder, check=True)

    def write(template: str, system: str, turns: Sequence[dict[str, str]]) -> str:
        messages = [{"Role": one["role"], "Content": one["content"]} for one in turns]
        return subprocess.run([folder / "main"], input=json.dumps({"Template": template, "System": system, "Messages": messages}),
                              capture_output=True, text=True, check=True).stdout

    return write


def pack_for(template: str, tmp_path: Path, card: str = "whitlow-ashe") -> tuple[Any, Pack]:
    tokenizer = tokenizer_of(template)
    (tmp_path / "report.json").write_text(json.dumps({"base": {"name": "tiny"}, "name": "The Miller"}))
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 131072}))
    (tmp_path / "character.json").write_text(json.dumps(find_bundled(card).raw))
    return tokenizer, make_pack(tmp_path, "the-miller-Q8_0.gguf", tokenizer)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("card", ["whitlow-ashe", "pim-tuckett"])
def test_ollama_writes_the_prompt_that_the_model_learnt(name: str, card: str, tmp_path: Path) -> None:
    tokenizer, pack = pack_for(FORMATS[name], tmp_path, card)
    found = dict(read_modelfile(render_modelfile(pack)))
    assert found["from"] == "../gguf/the-miller-Q8_0.gguf" and found["num_ctx"] == "8192"
    turns = [dict(zip(("role", "content"), value.split(": ", 1), strict=True))
             for command, value in read_modelfile(render_modelfile(pack)) if command == "message"]
    history = [("user", "Who are you?"), ("assistant", "Ask {again}."), ("user", "Well?")]
    for count in (1, 3):
        said = [*turns, *({"role": role, "content": text} for role, text in history[:count])]
        wanted = render_chat(tokenizer, messages(find_bundled(card), history[:count])).replace(pack.suffix, "")
        written = run_go_subset(found["template"], found["system"], said)
        assert written == wanted.removeprefix("<|endoftext|>") or written == wanted


@pytest.mark.parametrize("name", ["gemma", "refuses", "newest", "thinks"])
def test_our_reading_of_go_is_gos_own(name: str, real_go: Callable[..., str]) -> None:
    tokenizer = tokenizer_of(FORMATS[name])
    pieces = find_pieces(lambda turns, asked: render_chat(tokenizer, turns, asked))
    assert pieces
    for roles in (["user"], ["user", "assistant", "user"], ["assistant", "user"]):
        turns = [{"role": role, "content": f"{HARD} {number}"} for number, role in enumerate(roles)]
        written = real_go(pieces.to_go(), HARD, turns)
        assert written == run_go_subset(pieces.to_go(), HARD, turns)
        assert written == pieces.render([{"role": "system", "content": HARD}, *turns])


def test_the_token_that_an_engine_writes_itself_stays_out_of_the_template() -> None:
    tokenizer = tokenizer_of(templates.LLAMA3)
    for written, head in (("", "<|endoftext|><|start_header_id|>"), ("<|endoftext|>", "<|start_header_id|>")):
        pieces = find_pieces(lambda turns, asked: render_chat(tokenizer, turns, asked), written)
        assert pieces and pieces.system_head.startswith(head) and pieces.user_head.startswith("<|start_header_id|>user")


def test_a_format_without_a_translation_is_said_and_left_to_ollama(tmp_path: Path) -> None:
    numbered = "{% for message in messages %}{{ loop.index }} {{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    _, pack = pack_for(numbered, tmp_path)
    text = render_modelfile(pack)
    assert pack.template == "" and "no translation" in text and "template" not in dict(read_modelfile(text))


def test_the_modelfile_gives_back_what_the_card_says(tmp_path: Path) -> None:
    _, pack = pack_for(templates.CHATML, tmp_path)
    (tmp_path / "LICENSE").write_text('Licence of "x"\n\n"""\nall of it')
    _, pack = pack_for(templates.CHATML, tmp_path)
    commands = read_modelfile(render_modelfile(pack))
    found = dict(commands)
    assert found["system"] == messages(find_bundled("whitlow-ashe"), [])[0]["content"]
    assert [value for name, value in commands if name == "stop"] == ["<|im_end|>"]
    assert found["license"] == 'Licence of "x"\n\n"" "\nall of it'
    assert (found["temperature"], found["repeat_penalty"], found["num_predict"]) == ("0.7", "1.1", "160")


@pytest.mark.parametrize("text", [
    HARD, '"""', '""""', 'a"""  \n', '\n"""\n', '"', "", " a ", "long " * 20_000, "\u200b\u00adx\u2028y"])
def test_hard_texts_come_back(text: str) -> None:
    commands = read_modelfile(f"FROM x\nSYSTEM {quoted(text)}\nPARAMETER seed 1\n")
    assert [name for name, _ in commands] == ["from", "system", "seed"]
    assert commands[1][1] == re.sub(r'"""(?=[ \t]*$)', '"" "', printable(text), flags=re.MULTILINE)


@settings(max_examples=300)
@given(st.text(st.sampled_from('"" \t\n#a\u00a0\u200dSYSTEM'), max_size=30))
def test_no_text_escapes_its_quotes(text: str) -> None:
    commands = read_modelfile(f"FROM x\nSYSTEM {quoted(text)}\nMESSAGE user {quoted(text)}\nPARAMETER seed 1\n")
    assert [name for name, _ in commands] == ["from", "system", "message", "seed"]
    assert commands[1][1].replace(" ", "") == printable(text).replace(" ", "")


def test_the_reader_refuses_what_ollama_refuses() -> None:
    for text in ("SYSTEM a\n", 'FROM x\nSYSTEM """a\n', "FROM x\nBEGIN a\n", "FROM x\nMESSAGE player a\n", "FROM"):
        with pytest.raises(BadModelfile):
            read_modelfile(text)


def faults_of(language: Any, source: str) -> int:
    """Places where a source does not parse."""
    parser = tree_sitter.Parser(tree_sitter.Language(language))
    waiting, faults = [parser.parse(source.encode()).root_node], 0
    while waiting:
        node = waiting.pop()
        faults += node.is_error or node.is_missing
        waiting += node.children
    return faults


def texts_of(source: str, before: str) -> str:
    """The literals behind `before`, joined: what the program holds there."""
    part = re.split(r";\n|\n\)", source.partition(before)[2])[0]
    return "".join(json.loads(found) for found in re.findall(r'"(?:[^"\\\n]|\\.)*"', part))


@pytest.mark.parametrize("hard", [False, True])
def test_scripts_for_games_parse_and_hold_the_prompt(hard: bool, tmp_path: Path) -> None:
    _, pack = pack_for(templates.CHATML, tmp_path)
    if hard:
        text = f"{HARD}\u2028\x85\t\U0001f56f"
        pack = Pack("9-lives", 'A "title"\n*/', "Zoë", "9-lives-Q8_0.gguf", text,
                    [{"role": "user", "content": text}], text, 2)
    for language, script, before in ((tree_sitter_c_sharp.language(), unity.render_script(pack), "SystemPrompt ="),
                                     (tree_sitter_gdscript.language(), godot.render_script(pack), "SYSTEM_PROMPT := (")):
        assert faults_of(language, script) == 0 and faults_of(language, script.replace(before, f'{before} "', 1)) > 0
        assert texts_of(script, before) == pack.system
    guides = (unity.render_guide(pack), godot.render_guide(pack, "x.gd"))
    assert all(("lorebook" in guide) == bool(pack.lore) and pack.gguf in guide for guide in guides)


def write(folder: Path, id: str, pack: Pack) -> list[str]:
    """The files of a target's folder, once what it needs is fetched."""
    list(fetch() if (fetch := TARGETS[id].fetch) else [])
    writing = write_engine(folder, id, pack)
    try:
        while True:
            next(writing)
    except StopIteration as end:
        return end.value


def test_lm_studio_gets_its_layout_a_preset_and_the_opening(tmp_path: Path) -> None:
    _, pack = pack_for(templates.CHATML, tmp_path)
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / pack.gguf).write_bytes(b"GGUF")
    written = write(tmp_path, "lmstudio", pack)
    model = tmp_path / "lmstudio" / lmstudio.PUBLISHER / "the-miller" / pack.gguf
    assert model.read_bytes() == b"GGUF" and all((tmp_path / name).is_file() for name in written) and len(written) == 4
    fields = {one["key"]: one["value"] for one in json.loads(lmstudio.render_preset(pack))["operation"]["fields"]}
    assert fields["llm.prediction.systemPrompt"] == pack.system
    assert json.loads(lmstudio.render(pack)["opening.json"]) == messages(find_bundled("whitlow-ashe"), [])


def test_engines_without_a_type_get_the_default_and_the_best_file_is_named() -> None:
    assert needed_types(["ollama"], []) == ["Q8_0"] and needed_types(["ollama"], ["F16"]) == ["F16"] and needed_types([], []) == []
    assert choose_file(["a-F32.gguf", "a-Q4_0.gguf", "a-Q8_0.gguf"]) == "a-Q8_0.gguf"
    assert choose_file(["a-F32.gguf", "a-F16.gguf"]) == "a-F16.gguf" and choose_file(["a-IQ2.gguf"]) == "a-IQ2.gguf"


@pytest.mark.parametrize("id", TARGETS)
@pytest.mark.parametrize("hard", [False, True])
def test_every_target_writes_a_folder_that_can_be_used(id: str, hard: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if TARGETS[id].needs:
        request.getfixturevalue(TARGETS[id].needs)
    _, pack = pack_for(templates.CHATML, tmp_path)
    if hard:
        pack = replace(pack, slug="9-lives", title='A "title"\n', char="Zoë", system=HARD, suffix=HARD, lore=2,
                       opening=[{"role": "user", "content": HARD}])
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / pack.gguf).write_bytes(b"GGUF")
    written = write(tmp_path, id, pack)
    assert f"{id}/{TARGETS[id].start}" in written and TARGETS[id].id == id
    assert set(written) == {f"{id}/{file.relative_to(tmp_path / id).as_posix()}" for file in (tmp_path / id).rglob("*")
                            if file.is_file()}
    assert any(pack.gguf in name or (name.endswith((".md", ".gd", "Modelfile")) and pack.gguf in (tmp_path / name).read_text())
               for name in written)


def test_the_docs_list_every_target() -> None:
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    assert table() in text, f"docs/export.md: its table of targets should be\n{table()}"


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize("id", ["pim-tuckett", "9-lives", 'it\'s "q" \\ \u2028'])
def test_code_to_paste_parses_and_asks_the_character(id: str, key: bool) -> None:
    endpoint = Endpoint("http://127.0.0.1:8080", id, key)
    code = {name: client.render(endpoint) for name, client in CLIENTS.items()}
    ast.parse(code["python"])
    for language, name, before in ((tree_sitter_c_sharp.language(), "unity", "string Model ="),
                                   (tree_sitter_gdscript.language(), "godot", "const MODEL :=")):
        assert faults_of(language, code[name]) == 0 and faults_of(language, code[name].replace(before, f'{before} "', 1)) > 0
        assert texts_of(code[name], before).startswith(id)
    words = shlex.split(code["curl"])
    assert words[1] == "http://127.0.0.1:8080/v1/chat/completions" and json.loads(words[words.index("-d") + 1])["model"] == id
    assert all((KEY_NAME in text) == key for text in code.values())

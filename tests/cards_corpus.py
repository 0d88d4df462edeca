"""Shapes in which cards are found in the wild, each as the bytes of a file. All of it is made up here."""

import base64
import json
import zlib
from typing import Any

from card_samples import EVERYTHING, FLAT
from picture_samples import picture, with_chunks

from engine.cards import charx, pictures
from engine.cards.fields import as_v3, to_v2

RIGHT_TO_LEFT = "\u202bשומרת המגדלור\u202c \u200fחארסת المنارة\u200f"
FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\u200d\u2620\ufe0f e\u0301 \u00e9 \ufeff \u2028 \u0000"
ENTRY: dict[str, Any] = {"keys": ["lamp", "/la?mp/i"], "content": "@@depth 4\n@@@role system\n@@@@unheard 1\nThe lamp is green.",
                         "extensions": {"position": 1, "weird": [None]}, "enabled": True, "insertion_order": -3, "use_regex": True,
                         "secondary_keys": [], "selective": None, "id": "seven", "case_sensitive": None, "priority": 1e3}
BOOK = {"name": None, "entries": [ENTRY, {**ENTRY, "id": 7}, {"keys": []}], "extensions": {}, "scan_depth": 0, "beside": [1]}
V3 = {"spec": "chara_card_v3", "spec_version": "3.0"}
ASSETS = [{"type": "icon", "uri": "embeded://assets/icon/images/main.png", "name": "main", "ext": "png"},
          {"type": "emotion", "uri": "embedded://assets/emotion/images/怒り.webp", "name": "怒り", "ext": "webp", "own": 1},
          {"type": "background", "uri": "https://example.invalid/a.png", "name": "main", "ext": "png"},
          {"type": "x_theirs", "uri": "file:///etc/passwd", "name": "", "ext": ""}, {"type": "icon", "uri": "ccdefault:"}]
FILES = {"assets/icon/images/main.png": picture((5, 4)), "assets/emotion/images/怒り.webp": picture(kind="WEBP"),
         "x_meta/0.json": b"{}", "module.risum": bytes(range(256)), "assets/other/empty": b""}


def v3(**fields: Any) -> dict[str, Any]:
    """A V3 card of ours with some fields changed."""
    return {**V3, "data": {**as_v3(FLAT)["data"], **fields}}


def v2(**fields: Any) -> dict[str, Any]:
    """A V2 card with some fields changed."""
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": {**to_v2(FLAT)["data"], **fields}}


def _png(raw: dict[str, Any], *chunks: pictures.Chunk, keyword: str = "chara") -> bytes:
    return with_chunks(pictures.text_chunk(keyword, base64.b64encode(json.dumps(raw).encode())), *chunks)


CARDS: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "V1, flat, fields of other programs": {**FLAT, "avatar": "none", "chat": "2023-1-1", "talkativeness": "0.5", "fav": False,
                                           "create_date": "2023-1-1 @0h", "tags": [], "creatorcomment": ""},
    "from before V1": {"char_name": "Ann", "char_persona": "A smith.", "char_greeting": "Hm?", "world_scenario": "",
                       "example_dialogue": "<START>\nAnn: Hm."},
    "V2, no book": v2(character_book=None, alternate_greetings=None, creator=None, tags=[None, "a"]),
    "V2, V1's fields beside its own": {**v2(extensions={"fav": False, "world": "", "depth_prompt": {"depth": 4}}), **FLAT},
    "V2, a number as its version": {**v2(character_version=1.10), "spec_version": 2.0},
    "V2 with fields of V3": v2(group_only_greetings=["All of you!"], nickname="Ann", creation_date=1_700_000_000, assets=[]),
    "V3, a book with decorators": v3(character_book=BOOK),
    "V3, every kind of address": v3(assets=ASSETS),
    "V3, later": {**v3(creator_notes_multilingual={"de": "Für alle"}, source=["https://example.invalid"]), "spec_version": "3.1"},
    "macros in any case": v3(
        first_mes="{{CHAR}} {{Char}} {{chaR}} <Bot> <BOT> {{USER}} <uSER> {{Random: a,b}} {{// no }} {{roll:d6}}"),
    "emoji, right to left": v3(name="שרה \U0001f56f\ufe0f", nickname=RIGHT_TO_LEFT, description=FAMILY, tags=[RIGHT_TO_LEFT]),
    "fifty greetings": v3(alternate_greetings=[f"*{number}*\r\nHello.\n\n" for number in range(50)]),
    "odd fields": v2(tags="calm, kind", alternate_greetings="Hm!", character_version=2, creator=False, scenario=[], nickname=None,
                     group_only_greetings="All!", character_book=[ENTRY], personality=["Dry", "Kind"]),
    "nothing but a book": v2(description="", first_mes="", character_book={"entries": [{**ENTRY, "constant": True, "keys": []}]}),
    "extensions of everybody": v3(extensions={
        "risuai": {"emotions": []}, "chub": {"id": 10**20, "expressions": None}, "a": [[[{}]]], "": 0.1, "agnai": 1e-300,
        "persona_studio/npc": {"goals": ["light the lamp"]}}),
}
JSON_FILES: dict[str, bytes] = {
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(FLAT).encode(),
    "escapes and DOS line ends": json.dumps(CARDS["emoji, right to left"], indent=1).replace("\n", "\r\n").encode(),
    "a surrogate pair": rb'{"name": "\ud83d\ude00", "description": "Smiles."}',
}
PICTURES: dict[str, bytes] = {
    "chara in tEXt": _png(v2()),
    "an old card beside the new one": _png(
        v2(name="Old"), pictures.text_chunk("ccv3", base64.b64encode(json.dumps(EVERYTHING).encode()))),
    "ccv3 in zTXt": with_chunks((b"zTXt", b"ccv3\0\0" + zlib.compress(base64.b64encode(json.dumps(EVERYTHING).encode())))),
    "chara in iTXt": with_chunks((b"iTXt", b"chara\0\1\0\0\0" + zlib.compress(base64.b64encode(json.dumps(FLAT).encode())))),
}
PNG_WITH_FILES = _png(v3(assets=[{"type": "emotion", "uri": "__asset:0", "name": "joy", "ext": "png"},
                                 {"type": "emotion", "uri": "__asset:9", "name": "lost", "ext": "png"}]),
                      pictures.text_chunk("chara-ext-asset_:0", base64.b64encode(b"joy")), keyword="ccv3")


def archive(raw: dict[str, Any] | None = None, files: dict[str, bytes] | None = None) -> bytes:
    """A CHARX file; with everything unless said otherwise."""
    card = json.dumps(v3(assets=ASSETS) if raw is None else raw, ensure_ascii=False).encode()
    return charx.write(card, FILES if files is None else files)

"""RisuAI: lorebooks, modules as JSON, and characters with its own names in camel case.

After its sources (src/ts/process/lorebook.svelte.ts, modules.ts, storage/database.svelte.ts). Keys are one text with commas.
"""

from typing import Any

from engine.cards.book import key_list
from engine.cards.formats.kinds import Format, Read, dict_of, left_out, new_book, new_card, objects, renamed, text, without

# RisuAI's name of a character's field, and the card's.
_FIELDS = {"name": "name", "nickname": "nickname", "desc": "description", "personality": "personality", "scenario": "scenario",
           "firstMessage": "first_mes", "exampleMessage": "mes_example", "systemPrompt": "system_prompt",
           "replaceGlobalNote": "post_history_instructions", "alternateGreetings": "alternate_greetings", "tags": "tags",
           "creatorNotes": "creator_notes", "creator": "creator", "characterVersion": "character_version",
           "group_only_greetings": "group_only_greetings", "source": "source"}
_SETTINGS = {"scanDepth": "scan_depth", "tokenBudget": "token_budget", "recursiveScanning": "recursive_scanning"}


def _is_character(raw: Any) -> bool:
    inner = _character_of(raw)
    return "name" in inner and "firstMessage" in inner and ("desc" in inner or "globalLore" in inner)


def _character_of(raw: Any) -> dict[str, Any]:
    return raw["data"] if isinstance(raw.get("data"), dict) else raw


def _entries(raw: Any, whole_words: bool = False) -> list[dict[str, Any]]:
    return [_entry(one, whole_words) for one in objects(raw) if one.get("mode") != "folder"]  # a folder has no text


def _entry(raw: dict[str, Any], whole_words: bool) -> dict[str, Any]:
    rest = without(raw, "key", "secondkey", "content", "comment", "insertorder", "alwaysActive", "selective", "useRegex",
                   "extentions", "activationPercent", "loreCache")
    extensions = {**dict_of(raw.get("extentions")), **rest}  # spelt so there
    extensions["match_whole_words"] = whole_words  # its keys are found within words unless a setting says otherwise
    if isinstance(raw.get("activationPercent"), int | float):
        extensions |= {"probability": raw["activationPercent"], "useProbability": True}
    return {"keys": key_list(text(raw.get("key"))), "secondary_keys": key_list(text(raw.get("secondkey"))),
            "content": text(raw.get("content")), "name": text(raw.get("comment")), "comment": text(raw.get("comment")),
            "insertion_order": raw.get("insertorder", 100), "constant": raw.get("alwaysActive") is True, "enabled": True,
            "selective": raw.get("selective") is True, "use_regex": raw.get("useRegex") is True,
            "case_sensitive": extensions.get("risu_case_sensitive") is True, "extensions": extensions}


def _module(raw: Any) -> Read:
    inner = raw["module"] if isinstance(raw.get("module"), dict) else raw
    notes = left_out({"regex script": inner.get("regex"), "trigger": inner.get("trigger"), "file": inner.get("assets")})
    named = {name: inner.get(name) for name in ("name", "description")}
    return Read(new_book("risuai", named, _entries(inner.get("lorebook"))), notes)


def _character(raw: Any) -> Read:
    inner = _character_of(raw)
    fields = renamed(inner, _FIELDS)
    fields["extensions"] = dict_of(inner.get("extentions"))
    if isinstance(inner.get("depth_prompt"), dict):
        fields["extensions"].setdefault("depth_prompt", inner["depth_prompt"])
    settings = dict_of(inner.get("loreSettings"))
    if entries := _entries(inner.get("globalLore"), settings.get("fullWordMatching") is True):
        fields["character_book"] = {**new_book("risuai", {}, entries),
                                    **{ours: settings[theirs] for theirs, ours in _SETTINGS.items() if theirs in settings}}
    if text(inner.get("postHistoryInstructions")) and not text(fields["post_history_instructions"]):
        fields["post_history_instructions"] = inner["postHistoryInstructions"]
    rest = without(inner, *_FIELDS, "globalLore", "chats", "chatFolders", "depth_prompt", "extentions", "postHistoryInstructions",
                   "image")
    chats = [one for one in objects(inner.get("chats")) if one.get("message")]
    return Read(new_card("risuai", fields, rest), left_out({"chat": chats}))


FORMATS = (Format("lorebook", "a lorebook of RisuAI", lambda raw: raw.get("type") == "risu" and isinstance(raw.get("data"), list),
                  lambda raw: Read(new_book("risuai", raw, _entries(raw["data"]), ("type", "ver", "data")))),
           Format("lorebook", "a module of RisuAI", lambda raw: raw.get("type") == "risuModule", _module),
           Format("character", "a character of RisuAI", _is_character, _character))

"""Characters and lorebooks as other programs write them, each as the JSON value of its file. All of it is made up here."""

import io
import json
import zipfile
from typing import Any

from picture_samples import picture

AGNAI_BOOK: dict[str, Any] = {
    "kind": "memory", "name": "Mill lore", "description": "Of the mill.", "scanDepth": 7, "tokenBudget": 300,
                              "extensions": {"a": 1},
    "entries": [
        {"name": "Mill", "entry": "The mill is old.", "keywords": ["mill", "dam"], "priority": 3, "weight": 8, "enabled": True},
        {"name": "Secret", "entry": "It burned.", "keywords": ["fire"], "enabled": False, "constant": True}]}
AGNAI = {"kind": "character", "_id": "x", "name": "Ada", "description": "For readers.", "greeting": "Hello.", "scenario": "A mill.",
         "persona": {"kind": "text", "attributes": {"text": ["Ada counts sacks."]}}, "sampleChat": "{{user}}: Hi\n{{char}}: Hm.",
         "alternateGreetings": ["You again."], "systemPrompt": "Be brief.", "postHistoryInstructions": "No lists.",
         "tags": ["mill"],
         "creator": "Me", "characterVersion": "2", "insert": {"depth": 3, "prompt": "Ada never lies."}, "voice": {"service": "x"},
         "characterBook": AGNAI_BOOK, "appearance": "tall"}
NOVELAI = {
    "lorebookVersion": 5, "settings": {"orderByKeyLocations": False},
    "categories": [{"id": "c1", "name": "Places", "enabled": False}],
    "entries": [
        {"displayName": "Mill", "text": "The mill is old.", "keys": ["mill", "/d[ae]m/i"], "enabled": True,
         "forceActivation": False,
         "contextConfig": {"prefix": "", "budgetPriority": 400}, "id": "e1", "searchRange": 1000},
        {"displayName": "Always", "text": "It is 1910.", "keys": [], "enabled": True, "forceActivation": True},
        {"displayName": "Hut", "text": "A hut.", "keys": ["hut"], "enabled": True, "category": "c1"},
        {"displayName": "King", "text": "He rules here.", "keys": ["king & castle"], "enabled": True},
        {"displayName": "Mixed", "text": "Both.", "keys": ["a & b", "c"], "enabled": True},
        {"displayName": "", "text": " ", "keys": ["nothing"], "enabled": True}]}
RISU_ENTRY = {"key": "mill, dam", "secondkey": "fire,war", "comment": "Mill", "content": "The mill is old.", "mode": "normal",
              "alwaysActive": False, "insertorder": 70, "selective": True, "activationPercent": 50,
              "extentions": {"risu_case_sensitive": True}}
RISU_BOOK = {"type": "risu", "ver": 1, "data": [
    RISU_ENTRY, {"key": "folder-id", "comment": "Places", "content": "", "mode": "folder", "insertorder": 1},
    {**RISU_ENTRY, "key": "/d[ae]m,?/i", "useRegex": True, "alwaysActive": True, "selective": False}]}
RISU_MODULE = {"type": "risuModule", "name": "Mill", "description": "All of it.", "id": "1", "lorebook": RISU_BOOK["data"],
               "regex": [{"in": "a"}, {"in": "b"}], "trigger": [{}], "assets": [["a", "", "png"]]}
RISU = {"name": "Ada", "nickname": "Addy", "desc": "A clerk.", "firstMessage": "Hello.",
        "exampleMessage": "{{user}}: Hi\n{{char}}: Hm.",
        "systemPrompt": "Be brief.", "replaceGlobalNote": "No lists.", "alternateGreetings": ["You again."],
        "creatorNotes": "For readers.",
        "characterVersion": "2", "globalLore": [RISU_ENTRY], "loreSettings": {"scanDepth": 9, "tokenBudget": 800,
            "fullWordMatching": True},
        "chats": [{"message": [{"role": "user", "data": "Hi"}]}, {"message": []}], "additionalText": "kept", "depth_prompt": {
            "depth": 2, "prompt": "Ada never lies."}}
JANITOR = {"id": "x", "name": "Ada", "description": "<p>For readers.</p>", "personality": "A clerk.", "scenario": "A mill.",
           "first_message": "Hello.", "example_dialogs": "{{user}}: Hi\n{{char}}: Hm.", "is_nsfw": False}
CHUB = {"node": {"definition": {**JANITOR, "tavern_personality": "Dry.", "alternate_greetings": ["You again."],
                                "extensions": {"a": 1},
                                "embedded_lorebook": {"entries": [{"keys": ["mill"], "content": "The mill is old."}]}}}}
KOBOLD = {"gamestarted": True, "memory": "Ada is a clerk.", "authorsnote": "Be dry.", "prompt": "Once", "actions": ["a"],
          "worldinfo": [{"key": "mill,dam", "keysecondary": "", "content": "The mill is old.", "comment": "", "selective": False,
                         "constant": False, "folder": None},
                        {"key": "", "content": "", "init": False}]}
KOBOLD_UNITED = {"worldinfo_v2": {"folders": {"root": [0]}, "entries": {"0": {
    "uid": 0, "title": "Mill", "key": ["mill"], "keysecondary": [], "content": "", "manual_text": "The mill is old.",
    "constant": False, "selective": False, "comment": ""}}}, "memory": ""}
TEXTGEN = """# a character
name: Ada
context: |-
  {{char}} is a clerk.

  Scenario: a mill.
greeting: 'Hello: there.'
example_dialogue: |
  {{user}}: Hi
  {{char}}: Hm.
your_name: No
"""
FARADAY = {"version": 2, "character": {
    "aiDisplayName": "Ada Vale", "aiName": "Ada", "aiPersona": "{character} is a clerk, {{kept}}.",
                                       "basePrompt": "Be brief, {character}.",
    "customDialogue": "#{user}: Hi\n#{character}: Hm.", "firstMessage": "Hello {user}.", "scenario": "A mill.", "temperature": 0.8,
    "loreItems": [{"id": "1", "key": "mill, dam", "value": "{character} knows the mill."}],
                                       "Chat": [{"ChatItems": [{"input": "Hi"}]}]}}
WORLD = {"entries": {"0": {"uid": 0, "key": ["mill"], "keysecondary": [], "content": "The mill is old.", "comment": "Mill"}}}


def backyard_archive(**changes: Any) -> bytes:
    """A BYAF archive with one character, two scenarios and two pictures, one of which nothing lists."""
    scenario = {"schemaVersion": 1, "formattingInstructions": "Be brief, {character}.", "narrative": "A mill.", "temperature": 0.7,
                "firstMessages": [{"characterID": "ada", "text": "Hello {user}."}], "messages": [{"type": "human", "text": "Hi"}],
                "exampleMessages": [{"characterID": "me", "text": "Hi"}, {"characterID": "ada", "text": "Hm."}]}
    files: dict[str, Any] = {
        "manifest.json": {"schemaVersion": 1, "characters": ["characters/ada/character.json"], "author": {"name": "Me"},
                          "scenarios": ["scenarios/1.json", "scenarios/2.json"]},
        "characters/ada/character.json": {
            "id": "ada", "name": "Ada", "displayName": "Ada Vale", "persona": "{character} is a clerk.", "isNSFW": False,
            "loreItems": [{"key": "mill, dam", "value": "{character} knows the mill."}],
            "images": [{"path": "images/a.png", "label": "Portrait"}, {"path": "images/gone.png", "label": "x"}]},
        "scenarios/1.json": scenario,
        "scenarios/2.json": {**scenario, "narrative": "A dam.", "firstMessages": [{"text": "You again."}], "messages": []},
        "characters/ada/images/a.png": picture((7, 5)), "characters/ada/images/b.png": picture(), **changes}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, content in files.items():
            if content is not None:
                made.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return stream.getvalue()

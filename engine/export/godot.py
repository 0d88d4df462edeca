"""A Godot script that lets a character speak through NobodyWho, and how to use it.

Written for NobodyWho 10.0 (Godot 4), whose node for a character is NobodyWhoChat (https://github.com/nobodywho-ooo/nobodywho).
"""

from engine.export.game_code import literal, lore_note
from engine.export.pack import Pack

VERSION = "NobodyWho 10.0"


def render_script(pack: Pack) -> str:
    """The GDScript file of the character."""
    turns = [f'\t{{"role": "{turn["role"]}", "assets": [], "content":\n\t\t{literal(turn["content"], chr(9) * 2)}}},'
             for turn in pack.talk]
    return "\n".join([
        f"# {' '.join(pack.title.split())}, for {VERSION}. Made by Persona Studio; README.md says how to use it.",
        "extends NobodyWhoChat", "",
        "# What the model learnt to read before every conversation. A change of it makes the character worse.",
        "const SYSTEM_PROMPT := (", f"\t{literal(pack.system, chr(9))}", ")", "",
        "const OPENING: Array[Dictionary] = [", *turns, "]", "",
        "# Stands behind each of the player's lines.",
        "const BEHIND := (", f"\t{literal(pack.behind, chr(9))}", ")", "", "",
        "func _ready() -> void:",
        f"\tcontext_length = {pack.context}",
        "\tsystem_prompt = SYSTEM_PROMPT",
        "\tstart_worker()",
        "\tawait begin()", "", "",
        "# A new conversation.",
        "func begin() -> void:",
        '\tvar whole: Array = [{"role": "system", "content": SYSTEM_PROMPT, "assets": []}]',
        "\twhole.append_array(OPENING)",
        "\tawait set_chat_history(whole)", "", "",
        "# One answer. The signal response_updated tells its words as they come.",
        "func speak(line: String) -> String:",
        "\task(line + BEHIND)",
        "\treturn await response_finished", ""])


def render_guide(pack: Pack, script: str) -> str:
    """How to use the script, which is the file `script`."""
    return f"""# {pack.title} in {VERSION}

1. Install NobodyWho from Godot's AssetLib.
2. Copy `../gguf/{pack.gguf}` into the project, beside this folder's `{script}`.
3. Add a NobodyWhoModel node and set its `model_path` to `res://{pack.gguf}`; the chat format comes with the file.
4. Add a NobodyWhoChat node with the script `{script}`, and set its `model_node` to the model.
5. `var answer = await $Chat.speak("Hello.")` gives one answer.

An exported game looks for the file beside its executable: copy it there. Later versions of NobodyWho keep the system prompt
out of the history and have no assets in a message: there, leave both out of `begin` and `OPENING`.
{lore_note(pack.lore)}"""

"""Godot: a script that runs a character through NobodyWho, and a guide.

Written for NobodyWho 10.0 (Godot 4), whose node for a character is NobodyWhoChat (https://github.com/nobodywho-ooo/nobodywho).
"""

from engine.export.engines.target import Pack, Target, literal, lore_note

VERSION = "NobodyWho 10.0"


def render(pack: Pack) -> dict[str, str]:
    """The folder's files."""
    script = f"{pack.slug.replace('-', '_')}.gd"
    return {script: render_script(pack), "README.md": render_guide(pack, script)}


def render_script(pack: Pack) -> str:
    """The GDScript file of the character."""
    turns = [f'\t{{"role": "{turn["role"]}", "assets": [], "content":\n\t\t{literal(turn["content"], chr(9) * 2)}}},'
             for turn in pack.opening]
    return "\n".join([
        f"# {' '.join(pack.title.split())}, for {VERSION}. Made by Persona Studio; README.md explains how to use it.",
        "extends NobodyWhoChat", "",
        "# The prompt that the model was made for. Changing it makes the character worse.",
        "const SYSTEM_PROMPT := (", f"\t{literal(pack.system, chr(9))}", ")", "",
        "const OPENING: Array[Dictionary] = [", *turns, "]", "",
        "# Added after each of the player's lines.",
        "const SUFFIX := (", f"\t{literal(pack.suffix, chr(9))}", ")", "", "",
        "func _ready() -> void:",
        f"\tcontext_length = {pack.context}",
        "\tsystem_prompt = SYSTEM_PROMPT",
        "\tstart_worker()",
        "\tawait begin()", "", "",
        "# Starts a new conversation.",
        "func begin() -> void:",
        '\tvar whole: Array = [{"role": "system", "content": SYSTEM_PROMPT, "assets": []}]',
        "\twhole.append_array(OPENING)",
        "\tawait set_chat_history(whole)", "", "",
        "# One answer. The signal response_updated gives its words as they come.",
        "func speak(line: String) -> String:",
        "\task(line + SUFFIX)",
        "\treturn await response_finished", ""])


def render_guide(pack: Pack, script: str) -> str:
    """How to use the script, which is the file `script`."""
    return f"""# {pack.title} in {VERSION}

1. Install NobodyWho from Godot's AssetLib.
2. Copy `../gguf/{pack.gguf}` into the project, next to this folder's `{script}`.
3. Add a NobodyWhoModel node and set its `model_path` to `res://{pack.gguf}`; the chat format comes with the file.
4. Add a NobodyWhoChat node with the script `{script}`, and set its `model_node` to the model.
5. `var answer = await $Chat.speak("Hello.")` gives one answer.

An exported game looks for the file next to its executable: copy it there. Later versions of NobodyWho keep the system prompt
out of the history and have no assets in a message: there, leave both out of `begin` and `OPENING`.
{lore_note(pack.lore)}"""


TARGET = Target("godot", "Godot, with NobodyWho", "NobodyWho 10.0", "a GDScript file and a guide", render)

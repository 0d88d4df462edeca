"""Unity: a C# script that runs a character through LLM for Unity, and a guide.

Written for LLM for Unity (LLMUnity) 3.0, whose component for a character is LLMAgent
(https://github.com/undreamai/LLMUnity).
"""

from engine.base.sampling import DEFAULTS, TOP_K
from engine.export.engines.target import Pack, Target, class_name, literal, lore_note

VERSION = "LLM for Unity 3.0"


def render(pack: Pack) -> dict[str, str]:
    """The folder's files."""
    return {f"{class_name(pack.slug)}.cs": render_script(pack), "README.md": render_guide(pack)}


def render_script(pack: Pack) -> str:
    """The C# file of the character."""
    indent = " " * 8
    opening = ",\n".join(f'{indent}("{turn["role"]}",\n{indent} {literal(turn["content"], indent + " ")})' for turn in pack.opening)
    return f"""// {' '.join(pack.title.split())}, for {VERSION}. Made by Persona Studio; README.md explains how to use it.
using System.Threading.Tasks;
using LLMUnity;
using UnityEngine;

public class {class_name(pack.slug)} : MonoBehaviour
{{
    public LLMAgent agent;

    // The prompt that the model was made for. Changing it makes the character worse.
    const string SystemPrompt =
        {literal(pack.system, indent)};

    static readonly (string role, string text)[] Opening =
    {{
{opening}
    }};

    // Added after each of the player's lines.
    const string Suffix = {literal(pack.suffix, indent)};

    async void Start()
    {{
        agent.systemPrompt = SystemPrompt;
        agent.temperature = {DEFAULTS.temperature:g}f;
        agent.topP = {DEFAULTS.top_p:g}f;
        agent.topK = {TOP_K};
        agent.minP = {DEFAULTS.min_p:g}f;
        agent.repeatPenalty = {DEFAULTS.repeat_penalty:g}f;
        agent.numPredict = {DEFAULTS.max_tokens};
        await Begin();
        await agent.Warmup();
    }}

    // Starts a new conversation.
    public async Task Begin()
    {{
        await agent.ClearHistory();
        foreach (var (role, text) in Opening)
        {{
            if (role == "user") await agent.AddUserMessage(text);
            else await agent.AddAssistantMessage(text);
        }}
    }}

    // One answer; whileSpeaking receives the text so far.
    public Task<string> Say(string line, System.Action<string> whileSpeaking = null)
    {{
        return agent.Chat(line + Suffix, whileSpeaking);
    }}
}}
"""


def render_guide(pack: Pack) -> str:
    """How to use the script."""
    name = class_name(pack.slug)
    return f"""# {pack.title} in {VERSION}

1. Install LLM for Unity: Package Manager, Add package from git URL, `https://github.com/undreamai/LLMUnity.git`.
2. Add an empty GameObject with the component LLM. Press Load model and choose `../gguf/{pack.gguf}`; the chat format comes with
   the file. Set its Context Size to {pack.context}.
3. Add a GameObject with the component LLMAgent, which finds the LLM, and this folder's `{name}.cs`. Drag the agent into its
   field Agent.
4. `await GetComponent<{name}>().Say("Hello.")` gives one answer.
{lore_note(pack.lore)}"""


TARGET = Target("unity", "Unity, with LLM for Unity", "LLM for Unity (LLMUnity) 3.0", "a C# script and a guide", render)

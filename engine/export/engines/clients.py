"""Code to paste into a game or a script that talks to the cast server: curl, Python, Unity and Godot.

Each asks for one answer in a session: the server keeps the conversation, so a game sends only what the player said.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.export.engines.target import class_name, literal

KEY_NAME = "PERSONA_SERVER_KEY"  # the environment variable with the key, here and on the server
QUESTION = "Who are you?"
_PLAYER, _SESSION = "Player", "game-1"


@dataclass(frozen=True)
class Endpoint:
    """A server that answers. `address`: without a path; `model`: the served character's id; `key`: whether it asks for one."""

    address: str
    model: str
    key: bool = False

    @property
    def chat(self) -> str:
        """Where answers are asked for."""
        return f"{self.address}/v1/chat/completions"


@dataclass(frozen=True)
class Client:
    """A way to talk to the server. `hint`: what the code needs and how it is used, in one sentence."""

    id: str
    label: str
    hint: str
    render: Callable[[Endpoint], str]


def render_curl(endpoint: Endpoint) -> str:
    """A command for a shell."""
    key = f'  -H "Authorization: Bearer ${KEY_NAME}" \\\n' if endpoint.key else ""
    return (f"curl {shlex.quote(endpoint.chat)} \\\n  -H 'Content-Type: application/json' \\\n{key}"
            f"  -d {shlex.quote(json.dumps(_body(endpoint), ensure_ascii=False))}\n")


def render_python(endpoint: Endpoint) -> str:
    """A script for the package openai, whose answer is printed as it comes."""
    key = f'os.environ["{KEY_NAME}"]' if endpoint.key else '"none"'
    begin = "import os\n\n" if endpoint.key else ""
    return f"""{begin}from openai import OpenAI

client = OpenAI(base_url={json.dumps(f"{endpoint.address}/v1")}, api_key={key})
answer = client.chat.completions.create(
    model={json.dumps(endpoint.model)},
    messages=[{{"role": "user", "content": {json.dumps(QUESTION)}}}],
    extra_body={{"persona": {{"player": "{_PLAYER}", "session": "{_SESSION}"}}}},
    stream=True,
)
for piece in answer:
    if piece.choices:
        print(piece.choices[0].delta.content or "", end="", flush=True)
print()
"""


def render_unity(endpoint: Endpoint) -> str:
    """A C# component with a coroutine that brings one answer."""
    key = ('\n        web.SetRequestHeader("Authorization", "Bearer " + '
           f'Environment.GetEnvironmentVariable("{KEY_NAME}"));' if endpoint.key else "")
    return f"""using System;
using System.Collections;
using System.Text;
using UnityEngine;
using UnityEngine.Networking;

public class {class_name(endpoint.model)} : MonoBehaviour
{{
    const string Address = {literal(endpoint.chat, "        ")};
    const string Model = {literal(endpoint.model, "        ")};

    [Serializable] class Message {{ public string role; public string content; }}
    [Serializable] class Persona {{ public string player; public string session; }}
    [Serializable] class Question {{ public string model; public Message[] messages; public Persona persona; }}
    [Serializable] class Choice {{ public Message message; }}
    [Serializable] class Answer {{ public Choice[] choices; }}

    public IEnumerator Say(string line, Action<string> then, string player = "{_PLAYER}", string session = "{_SESSION}")
    {{
        var question = new Question
        {{
            model = Model,
            messages = new[] {{ new Message {{ role = "user", content = line }} }},
            persona = new Persona {{ player = player, session = session }},
        }};
        using var web = new UnityWebRequest(Address, "POST");
        web.uploadHandler = new UploadHandlerRaw(Encoding.UTF8.GetBytes(JsonUtility.ToJson(question)));
        web.downloadHandler = new DownloadHandlerBuffer();
        web.SetRequestHeader("Content-Type", "application/json");{key}
        yield return web.SendWebRequest();
        if (web.result == UnityWebRequest.Result.Success)
            then(JsonUtility.FromJson<Answer>(web.downloadHandler.text).choices[0].message.content);
        else
            Debug.LogError(web.error + " " + web.downloadHandler.text);
    }}
}}
"""


def render_godot(endpoint: Endpoint) -> str:
    """A GDScript node with a function that returns one answer."""
    key = f', "Authorization: Bearer " + OS.get_environment("{KEY_NAME}")' if endpoint.key else ""
    return f"""extends Node

const ADDRESS := {literal(endpoint.chat, chr(9))}
const MODEL := {literal(endpoint.model, chr(9))}


func say(line: String, player := "{_PLAYER}", session := "{_SESSION}") -> String:
	var http := HTTPRequest.new()
	add_child(http)
	var question := JSON.stringify({{
		"model": MODEL,
		"messages": [{{"role": "user", "content": line}}],
		"persona": {{"player": player, "session": session}},
	}})
	http.request(ADDRESS, ["Content-Type: application/json"{key}], HTTPClient.METHOD_POST, question)
	var done: Array = await http.request_completed  # result, status, headers, body
	http.queue_free()
	var text: String = done[3].get_string_from_utf8()
	if done[0] != HTTPRequest.RESULT_SUCCESS or done[1] != 200:
		push_error("The character gave no answer: %s %s" % [done[1], text])
		return ""
	return JSON.parse_string(text)["choices"][0]["message"]["content"]
"""


def _body(endpoint: Endpoint) -> dict[str, Any]:
    return {"model": endpoint.model, "messages": [{"role": "user", "content": QUESTION}],
            "persona": {"player": _PLAYER, "session": _SESSION}}


CLIENTS = {one.id: one for one in (
    Client("curl", "curl", "Paste it into a terminal.", render_curl),
    Client("python", "Python", "Needs the package openai; the answer is printed as it comes.", render_python),
    Client("unity", "Unity", "Add it to a GameObject, then StartCoroutine(Say(\"Hello.\", answer => Debug.Log(answer))). For "
           "plain HTTP, allow it in the Player settings: “Allow downloads over HTTP”.", render_unity),
    Client("godot", "Godot", "Put it on a node, then var answer = await $Node.say(\"Hello.\").", render_godot))}

"""Open tabs without a browser: what the page's script sends to the studio, sent by threads.

A tab asks for the page's plan (/config), chooses a character, goes into a room, and from then on asks for news once a second
as assets/news.js does, has painted what assets/prune_news.js would have painted, and lets each active timer tick at its own
pace. Listeners that an event sets off in turn are called as the page calls them. What a browser would draw is not drawn:
this is the studio's side of a tab that is in sight.
"""

import gzip
import http.client
import json
import re
import secrets
import threading
import time
from typing import Any
from urllib.parse import quote, urlsplit

from studio.page import SHOWN

API = "/gradio_api"
CASCADE = 60  # listeners that one event may set off
NEWS = 1.0  # seconds between two questions for news
CURVES, AGAIN, SLACK = 6.0, 3.0, 0.5  # seconds, as in assets/prune_news.js
BROWSER = {"accept-encoding": "gzip, deflate, br, zstd"}  # what Chromium offers a studio on the same machine


class Tab:
    """One open page. Not thread-safe.

    `requests`: how many were sent; `paintings`: how often it had Gradio paint what is new; `answer_seconds`: seconds from each
    question for news to its answer.
    """

    def __init__(self, address: str) -> None:
        self.host = urlsplit(address).netloc
        self.connection = http.client.HTTPConnection(self.host, timeout=60)
        self.session = secrets.token_hex(6)
        self.requests = self.paintings = 0
        self.answer_seconds: list[float] = []
        config = json.loads(self._send("GET", "/config"))
        self.values = {one["id"]: one["props"].get("value") for one in config["components"]}
        self.names = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
        self.timers = {one["id"]: one["props"] for one in config["components"] if one["type"] == "timer"}
        self.labels = {one["id"]: one["props"].get("label") for one in config["components"]}
        self.texts = {one["id"] for one in config["components"] if one["type"] == "textbox"}
        self.listeners = [one for one in config["dependencies"] if one["backend_fn"]]
        self.due = dict.fromkeys(self.timers, 0.0)
        self.character, self.room = "", ""
        self.news: dict[str, Any] = {}
        self.asked, self.tag, self.next_news = "", "", 0.0
        self.stamp: dict[str, str] = {}  # of the newest painting
        self.since, self.state, self.waits_for_painting = -1e9, "", False  # asked for when, and for which state
        for target in {tuple(target) for one in self.listeners for target in one["targets"] if target[1] == "load"}:
            self.fire(*target)

    def choose(self, character: str) -> None:
        """Choose a character by its id."""
        choice = self.names["side-characters"]
        self.values[choice] = self.character = character
        self.fire(choice, "input")

    def go(self, room: str) -> None:
        """Go into a room."""
        self.room = room
        self.values[next(id for id, label in self.labels.items() if label == SHOWN)] = room
        self.fire(self.names[f"room-{room}"], "select")

    def tick(self) -> float:
        """Ask for news, and let every timer tick that is due; seconds until the next one is."""
        if self.next_news <= time.monotonic():
            self.next_news = time.monotonic() + NEWS
            self._ask_for_news()
        for timer, props in self.timers.items():
            if props["active"] and self.due[timer] <= time.monotonic():
                begin = time.monotonic()
                self.fire(timer, "tick")
                self.due[timer] = begin + props["value"]
        due = [self.next_news, *(self.due[timer] for timer, props in self.timers.items() if props["active"])]
        return max(min(due) - time.monotonic(), 0.0)

    def _ask_for_news(self) -> None:
        """What assets/news.js does every second."""
        shown = self._found("prune-progress", "data-run-shown")
        asked = "jobs=" + (f"&prune={quote(f'{self.character}/{shown}', safe='')}" if self.room == "prune" else "")
        if asked != self.asked:
            self.asked, self.tag, self.news = asked, "", {}
        headers = {"x-studio-token": self._found("side-news", "data-token"), **({"if-none-match": self.tag} if self.tag else {})}
        begin = time.monotonic()
        status, tag, said = self._exchange("GET", f"/studio/news?{asked}", None, headers)
        self.answer_seconds.append(time.monotonic() - begin)
        if status == 200:
            self.news, self.tag = json.loads(said), tag
        elif status != 304:
            raise RuntimeError(f"news: {status}")
        if "jobs" in self.news:
            self.values[self.names["side-jobs"]] = self.news["jobs"]
        if self.news.get("prune"):
            self._take_prune(self.news["prune"], shown)

    def _take_prune(self, news: dict[str, Any], shown: str) -> None:
        """What assets/prune_news.js does with its news."""
        self.values[self.names["prune-making"]] = news["making"]
        if news["run"] and news["run"] == shown:
            self.values[self.names["prune-progress"]] = news["progress"]
        painted = {name: self._found("prune-stamp", f"data-{name}") for name in ("state", "masks", "curves")}
        now = time.monotonic()
        if painted != self.stamp:
            self.stamp, self.since = painted, self.since if self.waits_for_painting else now
            self.waits_for_painting = False
        figures = float("inf") if painted["curves"] == news["curves"] else max(news["pace"], CURVES)
        figures = figures if painted["masks"] == news["masks"] else news["pace"]
        is_new = painted["state"] != news["state"]
        pause = (0.0 if is_new and self.state != news["state"] else max(AGAIN, news["pace"]) if self.waits_for_painting
                 else AGAIN if is_new else figures)
        if now - self.since >= pause - SLACK:
            self.since, self.state, self.waits_for_painting = now, news["state"], True
            self.fire(self.names["prune-stamp"], "state" if is_new else "figures")
            self.paintings += 1

    def _found(self, name: str, attribute: str) -> str:
        """An attribute in the HTML that a component shows; "" without one."""
        found = re.search(f'{attribute}="([^"]*)"', self.values[self.names[name]] or "")
        return found[1] if found else ""

    def fire(self, component: int, event: str) -> None:
        """An event of a component, and what it sets off: changed states set off their own listeners."""
        left = [(component, event)]
        called = 0
        while left and called < CASCADE:
            target = list(left.pop(0))
            for listener in self.listeners:
                if target in listener["targets"]:
                    told = {"value": self.labels[component], "index": 0, "selected": True} if event == "select" else None
                    left += [(one, "change") for one in self._call(listener, told)]
                    called += 1

    def close(self) -> None:
        """The tab is closed."""
        self.connection.close()

    def _call(self, listener: dict[str, Any], told: dict[str, Any] | None) -> list[int]:
        """Call a listener with what the event tells; the ids of the states and of the texts that it changed."""
        body = {"data": [self.values[one] for one in listener["inputs"]], "event_data": told, "fn_index": listener["id"],
                "trigger_id": listener["targets"][0][0], "session_hash": self.session}
        if listener["queue"] is False:
            output = json.loads(self._send("POST", f"{API}/run/predict", body))
        else:
            self._send("POST", f"{API}/queue/join", body)
            output = self._outcome()
        before = {one: self.values[one] for one in self.texts}
        for component, value in zip(listener["outputs"], output.get("data") or [], strict=False):
            self._take(component, value)
        return [*(output.get("changed_state_ids") or []), *(one for one in self.texts if self.values[one] != before[one])]

    def _outcome(self) -> dict[str, Any]:
        """What the queue says at the end of the call under way."""
        last: dict[str, Any] = {}
        for line in self._send("GET", f"{API}/queue/data?session_hash={self.session}").decode().split("\n"):
            if line.startswith("data: ") and (message := json.loads(line[6:]))["msg"] == "process_completed":
                if not message["success"]:
                    raise RuntimeError(str(message["output"]))
                last = message["output"]
        return last

    def _take(self, component: int, value: Any) -> None:
        if not isinstance(value, dict) or value.get("__type__") != "update":
            self.values[component] = value
            return
        self.values[component] = value.get("value", self.values[component])
        if component in self.timers:
            self.timers[component] = {**self.timers[component], **value}

    def _send(self, method: str, path: str, body: Any = None) -> bytes:
        text = json.dumps(body) if body is not None else None
        status, _, said = self._exchange(method, path, text, {"content-type": "application/json"} if text else {})
        if status != 200:
            raise RuntimeError(f"{path}: {status} {said[:200]!r}")
        return said

    def _exchange(self, method: str, path: str, text: str | None, headers: dict[str, str]) -> tuple[int, str, bytes]:
        """Status, ETag and body of an answer."""
        self.requests += 1
        try:
            self.connection.request(method, path, text, {**BROWSER, **headers})
            answer = self.connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):  # the server closes what was quiet for seconds
            self.connection.close()
            self.connection.request(method, path, text, {**BROWSER, **headers})
            answer = self.connection.getresponse()
        return answer.status, answer.headers.get("etag", ""), _plain(answer.read(), answer.headers.get("content-encoding", ""))


def _plain(said: bytes, encoding: str) -> bytes:
    """A body as it was before it was packed."""
    if encoding == "br":
        import brotli

        return bytes(brotli.decompress(said))
    return gzip.decompress(said) if encoding == "gzip" else said


class Audience:
    """A number of tabs, each with a thread of its own while they watch. `faults`: what went wrong in the threads."""

    def __init__(self, address: str, tabs: int, character: str, room: str) -> None:
        self.tabs = [Tab(address) for _ in range(tabs)]
        self.room = room
        self.faults: list[Exception] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        for tab in self.tabs:
            tab.choose(character)

    @property
    def requests(self) -> int:
        """How many requests all tabs have sent."""
        return sum(tab.requests for tab in self.tabs)

    @property
    def paintings(self) -> int:
        """How often all tabs had something painted."""
        return sum(tab.paintings for tab in self.tabs)

    def watch(self) -> None:
        """All tabs go into the room and let their timers tick; returns when all are there."""
        self._stop.clear()
        there = threading.Barrier(len(self.tabs) + 1)
        self._threads = [threading.Thread(target=self._follow, args=(tab, number / len(self.tabs), there), daemon=True)
                         for number, tab in enumerate(self.tabs)]
        for thread in self._threads:
            thread.start()
        try:
            there.wait(120)
        except threading.BrokenBarrierError:
            raise self.faults[0] from None

    def look_away(self) -> None:
        """All tabs stop asking."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _follow(self, tab: Tab, delay: float, there: threading.Barrier) -> None:
        try:
            tab.go(self.room)
            there.wait(120)
            self._stop.wait(delay)  # people do not open their tabs at the same instant
            while not self._stop.is_set():
                self._stop.wait(tab.tick())
        except Exception as error:
            self.faults.append(error)
            there.abort()

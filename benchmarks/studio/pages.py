"""Open tabs without a browser: each follows the studio's live channel as assets/live.js does. What a browser would draw is not
drawn: this is the studio's side of a visible tab."""

import http.client
import json
import re
import threading
import time
from typing import Any
from urllib.parse import quote, urlsplit


class Audience:
    """A number of tabs that look at a character in a room, each in a thread while they watch.

    `messages`, `bytes`: how many all tabs have got; `faults`: what went wrong in the threads.
    """

    def __init__(self, address: str, tabs: int, character: str, room: str) -> None:
        self.host, self.tabs = urlsplit(address).netloc, tabs
        self.messages = self.bytes = 0
        self.contents: list[dict[str, Any]] = [{} for _ in range(tabs)]
        self.faults: list[Exception] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.request("GET", "/")
        token = re.search(r'data-token=\\+"([\w-]+)', connection.getresponse().read().decode())
        if token is None:
            raise RuntimeError("The page holds no token of the live channel.")
        self.path = f"/studio/live?token={token[1]}&room={room}&character={quote(character)}"

    def watch(self) -> None:
        """All tabs follow; returns when each of them has got its first message."""
        self._stop.clear()
        there = threading.Barrier(self.tabs + 1)
        self._threads = [threading.Thread(target=self._follow, args=(number, there), daemon=True) for number in range(self.tabs)]
        for thread in self._threads:
            thread.start()
        try:
            there.wait(120)
        except threading.BrokenBarrierError:
            raise self.faults[0] from None

    def look_away(self) -> None:
        """All tabs are closed."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _follow(self, number: int, there: threading.Barrier) -> None:
        try:
            time.sleep(number / self.tabs)  # people do not open their tabs at the same instant
            connection = http.client.HTTPConnection(self.host, timeout=60)
            connection.request("GET", self.path)
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"live channel: {answer.status}")
            is_there = False
            while not self._stop.is_set() and (line := answer.readline()):
                if line.startswith(b"data: "):
                    self.contents[number] |= json.loads(line[6:])["parts"]
                    with self._lock:
                        self.messages, self.bytes = self.messages + 1, self.bytes + len(line)
                    if not is_there:
                        is_there = True
                        there.wait(120)
            connection.close()
        except Exception as error:
            self.faults.append(error)
            there.abort()

"""Stands for `python -m engine` where a test is about the studio: the model's name says how it behaves.

quick: ends at once with a result; quick-N: with N lines. slow: a step every 50 ms for ever, saves and ends when asked;
resumed, it ends after three steps. deaf: like slow, but listens to nobody, and has a child. refuses: says why, without an
event. dies: of a segmentation fault. late: fails, and its words are torn. As the chat worker it knows no models, and says nothing.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

arguments = sys.argv[1:]
if arguments[0] == "chat-worker":
    for line in sys.stdin:
        asked_for = json.loads(line)
        if asked_for["do"] in ("models", "warm"):
            print(json.dumps({"event": "Models" if asked_for["do"] == "models" else "Warmed", "id": asked_for["id"], "models": []}),
                  flush=True)
    sys.exit(0)
job = json.loads(Path(arguments[arguments.index("--job") + 1]).read_text())
resumed = job.get("resume", False)
work = Path(job["workdir"])
behaviour = job["model"].rpartition("/")[2]  # as on the hub, too: some/slow
asked = threading.Event()


def tell(event: str, **fields: object) -> None:
    """One event, appended."""
    with (work / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")


def on_signal(*_: object) -> None:
    """The first one asks; a second one ends it in the middle of its step, as with the engine."""
    if asked.is_set():
        os._exit(1)
    asked.set()


def watch_leash() -> None:
    """End of input: the studio is gone."""
    while os.read(0, 4096):
        pass
    asked.set()


def make_lines() -> None:
    """The result of a lines run: two lines, or as many as the model's name says."""
    number = int(behaviour.partition("-")[2] or 2)
    lines = [{"question": f"Where is door {n}?", "answer": f"Là, {n}.", "neutral": "", "category": "world", "source": "pool",
              "complete": True, "sensitivity": 0.5, "split": "train"} for n in range(number)]
    (work / "rejected.json").write_text('{"empty": 3}')
    (work / "lines.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    tell("Lines", path="", train=2, validation=0, test=0, rejected={"empty": 3})


def make_model(out: Path) -> None:
    """The result of a prune run: a folder that is whole, with nothing in it."""
    out.mkdir()
    (out / "report.json").write_text('{"stages": {}}')
    (out / "manifest.json").write_text('{"files": {}}')


def count(last: int) -> None:
    """Steps from where an earlier process stopped."""
    saved = work / "step"
    begin = int(saved.read_text()) if saved.exists() else 0
    for done in range(begin + 1, (begin + 3 if resumed else last) + 1):
        time.sleep(0.05)
        saved.with_suffix(".new").write_text(str(done))
        saved.with_suffix(".new").replace(saved)  # whole, whenever it is killed
        tell("Step", stage="learn_mask", done=done, total=last, values={"loss": 1.0 / done})
        if asked.is_set():
            tell("Stopped", sentence="Stopped; what was done is kept.")
            sys.exit(130)


if behaviour == "refuses":
    tell("Failed", sentence="The card is empty.", hint="Write one.")
    sys.exit(2)
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    (work / "child").write_text(str(child.pid))
else:
    signal.signal(signal.SIGTERM, on_signal)
    threading.Thread(target=watch_leash, daemon=True).start()
tell("Started", character="Zoë", model=behaviour, sparsity=0.25, stages=[["learn_mask", ""]], resumed=resumed)
(work / "job.json").write_text("{}")
tell("Stage", stage="learn_mask", total=100_000)
if behaviour == "dies":
    os.kill(os.getpid(), signal.SIGSEGV)
if behaviour == "late":
    with (work / "events.jsonl").open("a") as file:
        file.write('{"event": "Warned", "sen')
    tell("Failed", sentence="The disk is full.", hint="Free some space, then run the same command with --resume.", code="disk_full")
    sys.exit(2)
if not behaviour.startswith("quick"):
    count(100_000)
if job.get("until"):
    make_lines()
elif job.get("out"):
    make_model(Path(job["out"]))
tell("Finished", out="", seconds=1.0)

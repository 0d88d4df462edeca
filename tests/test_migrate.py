"""What earlier versions wrote still opens: events, reports, work folders, the library's rows."""

import json
from pathlib import Path

import pytest

from engine.base import migrate
from engine.base.event_file import decode, encode, read
from engine.base.events import Finished, Saved, Stage, Started, Step
from engine.base.files import read_json, write_json
from engine.base.ids import ArtifactId, ReadingId, Rejection, StageId
from engine.base.pruning_events import LayerTuned, Lines, Measured

READING = {"split": "test", "kl": 0.1, "top1": 0.9, "nll": 2.0, "lines": 5, "tokens": 50, "time": 1.0}
FORMER = [
    ({"event": "Started", "character": "Zoë", "model": "m", "sparsity": 0.25, "stages": ["load the model", "write Q8_0"],
      "time": 1.0},
     Started("Zoë", "m", 0.25, [(StageId.LOAD, ""), (StageId.GGUF_WRITE, "Q8_0")], time=1.0)),
    ({"event": "Stage", "name": "prove Q8_0", "total": 3, "reused": False, "time": 1.0},
     Stage(StageId.GGUF_PROVE, 3, subject="Q8_0", time=1.0)),
    ({"event": "Stage", "name": "prove", "time": 1.0}, Stage(StageId.PROVE, time=1.0)),
    ({"event": "Step", "stage": "learn the mask", "done": 1, "total": 2, "values": {"loss": 0.5}, "time": 1.0},
     Step(StageId.LEARN_MASK, 1, 2, {"loss": 0.5}, time=1.0)),
    ({"event": "LayerTuned", "stage": "tune the layers again", "layer": 0, "layers": 2, "before": 0.2, "after": None, "used": False,
      "time": 1.0}, LayerTuned(StageId.TUNE_AGAIN, 0, 2, 0.2, None, False, time=1.0)),
    ({"event": "Measured", "what": "mask, step 5", **READING},
     Measured(ReadingId.MASK_STEP, "test", 0.1, 0.9, 2.0, 5, 50, 5, time=1.0)),
    ({"event": "Measured", "what": "mask + least squares + tuned layers", **READING},
     Measured(ReadingId.TUNED, "test", 0.1, 0.9, 2.0, 5, 50, time=1.0)),
    ({"event": "Lines", "path": "x", "train": 3, "validation": 2, "test": 1, "rejected": {"assistant manners": 2}, "time": 1.0},
     Lines("x", 3, 2, 1, {Rejection.ASSISTANT: 2}, time=1.0)),
    ({"event": "Saved", "what": "GGUF file", "path": "/x/zoe-Q8_0.gguf", "bytes": 5, "time": 1.0},
     Saved(ArtifactId.GGUF, "/x/zoe-Q8_0.gguf", 5, "Q8_0", time=1.0))]


@pytest.mark.parametrize(("former", "event"), FORMER, ids=lambda one: str(one)[:40])
def test_former_events_are_read_as_todays(former: dict, event: object) -> None:
    assert decode(json.dumps(former)) == event
    assert decode(encode(event)) == event  # type: ignore[arg-type]


def test_what_was_told_of_banks_is_passed_over(tmp_path: Path) -> None:
    kept = encode(Finished("/out", 2.0, time=3.0))
    gone = [{"event": "Stage", "name": "compare zoe", "time": 1.0}, {"event": "Stage", "name": "correct", "time": 1.0},
            {"event": "Stage", "stage": "match_character", "total": 0, "reused": False, "subject": "zoe", "time": 1.0},
            {"event": "Saved", "what": "zoe in the bank", "path": "/b", "bytes": 5, "time": 1.0},
            {"event": "Saved", "what": "bank_entry", "path": "/b", "bytes": 5, "subject": "zoe", "time": 1.0}]
    (tmp_path / "events.jsonl").write_text("".join(f"{line}\n" for line in [*map(json.dumps, gone), kept]))
    assert list(read(tmp_path / "events.jsonl")) == [Finished("/out", 2.0, time=3.0)]


def test_every_former_name_has_an_id() -> None:
    for name in ("fetch starter", "convert starter", "score questions", "rewriting", "make ready for engines",
                 "answer the script, model 2 of 3"):
        assert StageId(migrate.stage(name)[0])
    assert migrate.reading("recovery, step 12") == (ReadingId.RECOVERY_STEP, 12)
    assert migrate.reading("something else") == ("something else", None)


def test_a_former_work_folder_is_brought_up_to_date_once_and_kept(tmp_path: Path) -> None:
    write_json(tmp_path / "job.json", {"fingerprint": "f", "recipe": {"further_answers": 3, "steps": 5}})
    write_json(tmp_path / "meter.json", {"learn the mask": {"seconds": 1.0, "tokens": 5}})
    write_json(tmp_path / "readings.json", {"mask + least squares": {"kl": 0.1}})
    write_json(tmp_path / "tuned.json", {"used": True, "kl": 0.1, "further_answers": 20})
    (tmp_path / "rejected.json").write_text("{torn")
    migrate.work_folder(tmp_path)
    assert read_json(tmp_path / "job.json") == {"fingerprint": "f", "recipe": {"extra_samples": 3, "steps": 5}, "format": 2}
    assert list(read_json(tmp_path / "meter.json")) == ["learn_mask"]
    assert list(read_json(tmp_path / "readings.json")) == ["mask_reconstructed"]
    assert read_json(tmp_path / "tuned.json")["extra_samples"] == 20
    assert (tmp_path / "rejected.json").read_text() == "{torn"
    assert list(read_json(tmp_path / migrate.BACKUP / "meter.json")) == ["learn the mask"]
    write_json(tmp_path / "meter.json", {"recover": {"seconds": 1.0, "tokens": 5}})
    migrate.work_folder(tmp_path)
    assert list(read_json(tmp_path / migrate.BACKUP / "meter.json")) == ["learn the mask"]


def test_a_former_report_reads_like_a_new_one() -> None:
    former = {"format": 1, "recipe": {"refit_within": 1.05}, "lines": {"train": 3, "rejected": {"too_long": 1}},
              "readings": {"dense": {}, "mask_recovered": {}}, "stages": {"tune_layers": {"seconds": 1}},
              "choices": {"mask": "start", "layer_tuning": {"used": True, "further_answers": 2}}, "made": "x"}
    new = migrate.report(former)
    assert new == {"format": 1, "recipe": {"max_kl_ratio": 1.05}, "lines": {"train": 3, "rejected": {"too_long": 1}},
                   "readings": {"dense": {}, "mask_recovered": {}}, "stages": {"tune_layers": {"seconds": 1}},
                   "choices": {"mask": "start", "tune_layers": {"used": True, "extra_samples": 2}}, "made": "x"}
    assert migrate.report(new) == new

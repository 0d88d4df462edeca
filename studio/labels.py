"""The engine's ids in plain words, for the page; those for the terminal are in engine/labels.py. Everything is escaped."""

import html

from engine.base.ids import Doubt, ErrorCode, FinishReason, ReadingId, Rejection, StageId, Verdict

# In the order in which a job reads them, which is the order of the ladder.
READINGS: dict[str, str] = {
    ReadingId.RANDOM: "Channels cut at random",
    ReadingId.MAGNITUDE: "Smallest weights cut",
    ReadingId.WANDA: "Least used channels cut (Wanda)",
    ReadingId.MASK: "The mask",
    ReadingId.RECONSTRUCTED: "The mask, refitted",
    ReadingId.TUNED: "The mask, refitted and tuned",
    ReadingId.RECOVERED: "The mask, recovered",
    ReadingId.RECONSTRUCTED_RECOVERED: "The mask, refitted and recovered",
    ReadingId.TUNED_RECOVERED: "The mask, refitted, tuned and recovered",
    ReadingId.DENSE_SHORT: "The whole model without the card",
    ReadingId.BAKED_TURNS: "Baked, second answers of a conversation",
    ReadingId.BAKED: "Baked",
    ReadingId.DENSE: "The whole model",
    # On the lines that choose, while a run works.
    ReadingId.START_BEFORE: "Cut", ReadingId.START_AFTER: "Refitted",
    ReadingId.MASK_STEP: "Mask learned", ReadingId.MASK_BEFORE: "Learned mask, cut", ReadingId.MASK_AFTER: "Learned mask, refitted",
    ReadingId.TUNING_BEFORE: "Before tuning", ReadingId.TUNING_STEP: "Layers tuned:", ReadingId.TUNING_AFTER: "Tuned",
    ReadingId.TUNING_AGAIN_BEFORE: "Before tuning again", ReadingId.TUNING_AGAIN_AFTER: "Tuned again",
    ReadingId.RECOVERY_STEP: "Recovering, step", ReadingId.BAKE_STEP: "Baking, step",
}
STAGES: dict[str, str] = {
    StageId.FETCH: "Fetch {}", StageId.CONVERT: "Convert the model {}", StageId.LOAD: "Load the model",
    StageId.SCORE: "Choose questions", StageId.ASK: "Make up more questions", StageId.ANSWERS: "Write the answers",
    StageId.SAMPLES: "Write more answers to learn from", StageId.DENSE: "Read the answers with the whole model",
    StageId.LEARN_MASK: "Learn what to keep", StageId.RECONSTRUCT_START: "Refit what stays, layer by layer",
    StageId.RECONSTRUCT: "Refit it for what was learned", StageId.TUNE: "Tune what stays, layer by layer",
    StageId.TUNE_AGAIN: "Tune it again, on more answers", StageId.RECOVER: "Recover: fine-tune the whole model",
    StageId.TALKS: "Write conversations of two turns", StageId.BAKE: "Bake the card into the weights",
    StageId.MEASURE: "Measure how close it came",
    StageId.IMPORTANCE: "Find what small files must keep exactly", StageId.EXPORT: "Write the smaller model",
    StageId.PROVE: "Check that it loads and speaks",
    StageId.GGUF_FILES: "Write the files that it speaks with",
    StageId.COPY: "Copy the files", StageId.ZIP: "Pack the zip", StageId.GGUF_WRITE: "Write the GGUF file {}",
    StageId.GGUF_DECODE: "Decode with llama.cpp", StageId.GGUF_REFERENCE: "Read the same texts with transformers",
    StageId.GGUF_PROVE: "Compare the GGUF file {}", StageId.ENGINES: "Make the engines' folders",
    StageId.SHIP_READ: "Read {} at its types", StageId.SHIP_SPEED: "Time all files in llama.cpp",
    StageId.SPEED: "Measure the speed, dense and pruned", StageId.SCRIPT: "Answer the script: {}",
    StageId.SCENE: "Play the scene", StageId.CAST: "Draft {}",
    StageId.COMPARE: "Compare the answers", StageId.EXAM: "Exam of the judge {}",
    StageId.DOSSIER: "Dossier by {}",
    StageId.INTERVIEW: "Ask {}", StageId.ASSESS: "Measure: {}",
}
REJECTIONS: dict[str, str] = {
    Rejection.EMPTY: "said next to nothing", Rejection.LOOPING: "went round in circles", Rejection.TRUNCATED: "broke off",
    Rejection.REFUSAL: "refused to answer", Rejection.ASSISTANT: "sounded like an assistant",
    Rejection.THIRD_PERSON: "spoke about the character from outside", Rejection.LEAK: "gave the instructions away",
    Rejection.IN_SCRIPT: "asked what the test script or the dossier asks", Rejection.NO_TEXT: "had no question or no answer",
    Rejection.REPEATED: "asked the same again", Rejection.TOO_LONG: "were too long",
}
DOUBTS: dict[str, str] = {**REJECTIONS, Doubt.SHORT: "very short", Doubt.CODE: "holds code", Doubt.OTHER_NAME: "names {}"}
# Why an answer is as it is, where it did not simply end.
FINISHES: dict[str, str] = {
    FinishReason.LIMIT: "Cut off at the longest answer allowed.", FinishReason.STOPPED: "Stopped by you.",
    FinishReason.LOOP: "Ended because the model began to repeat itself.", FinishReason.FAILED: "Interrupted before the end.",
    "edited": "Edited by hand.",
}
# A run, as Jobs.shown_state says; "damaged": its entry in the library cannot be read.
RUN_STATES = {"queued": "waiting for its turn", "starting": "starting", "running": "running", "stopping": "stopping",
              "stopped": "stopped", "failed": "failed", "done": "done", "silent": "not responding", "damaged": "damaged"}
VERDICTS: dict[str, str] = {Verdict.PASS: "pass", Verdict.FAIL: "fail", Verdict.OPEN: "not judged"}
SOURCES = {"pool": "player lines", "self-asked": "made up by the model", "user": "your file", "lore": "about the lorebook",
           "sibling": "like one that failed"}
SPLITS = {"train": "to learn from", "validation": "to choose", "test": "to report"}
# What to do about an error, where a page says it otherwise than the engine's hint, which is meant for a terminal.
ADVICE: dict[str, str] = {
    ErrorCode.MEMORY: "Load the model in 4 bit, choose a smaller model, or close other programs; then press Resume.",
    ErrorCode.DISK_FULL: "Free some space, then press Resume.",
    ErrorCode.SERVER: "The answers so far are kept; press Resume to continue.",
    ErrorCode.LINES_DAMAGED: "Repair the file, or delete it to have the lines written again; then press Resume.",
    ErrorCode.LINES_CHANGED: "Restore the original file, or queue the prune again.",
    ErrorCode.WORK_DAMAGED: "Delete the run, and make it again.",
    ErrorCode.NOTHING_LEFT: "Choose a smaller multiple, or remove less.",
    ErrorCode.NOTHING_REMOVED: "Choose a smaller multiple, or remove more.",
    ErrorCode.PORT: "Choose another port, or 0 for any free one.",
}


def reading(id: str) -> str:
    """A reading; an unknown id as it is."""
    return READINGS.get(id) or html.escape(id)


def stage(id: str, subject: str = "") -> str:
    """A stage, with what it is done for; an unknown id as it is."""
    label = STAGES.get(id)
    return label.format(html.escape(subject)) if label else html.escape(" ".join(filter(None, (id, subject))))


def rejection(id: str) -> str:
    """A reason for which a line was left out; an unknown id as it is."""
    return REJECTIONS.get(id) or html.escape(id)


def doubt(id: str, subject: str = "") -> str:
    """Why a line should be looked at; an unknown id as it is."""
    return DOUBTS[id].format(html.escape(subject)) if id in DOUBTS else html.escape(id)


def source(id: str) -> str:
    """Where a line comes from."""
    return SOURCES.get(id) or ("a server" if id.startswith("teacher") else html.escape(id))


def error(sentence: str, hint: str = "", code: str = ErrorCode.OTHER) -> str:
    """What is wrong and what to do about it, as plain text (not escaped)."""
    return f"{sentence} {ADVICE.get(code, hint)}".strip()

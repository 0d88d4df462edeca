"""The ids of the engine in words, for the terminal, model cards and tables. The page has its own table: studio/labels.py."""

from engine.base.ids import ArtifactId, ReadingId, Rejection, StageId

STAGES: dict[StageId, str] = {
    StageId.FETCH: "fetch {}", StageId.CONVERT: "convert {}",
    StageId.LOAD: "load the model",
    StageId.SCORE: "score questions", StageId.ASK: "make up questions", StageId.ANSWERS: "write answers",
    StageId.SAMPLES: "write extra samples", StageId.DENSE: "read the dense model",
    StageId.RECONSTRUCT_START: "reconstruct the start", StageId.LEARN_MASK: "learn the mask",
    StageId.RECONSTRUCT: "reconstruct the mask", StageId.TUNE: "tune the layers", StageId.TUNE_AGAIN: "tune the layers again",
    StageId.TALKS: "write conversations", StageId.BAKE: "bake", StageId.ADAPT: "learn the adapter of {}",
    StageId.RECOVER: "recover", StageId.MEASURE: "measure",
    StageId.IMPORTANCE: "read the importance of columns", StageId.EXPORT: "export", StageId.PROVE: "prove",
    StageId.GGUF_FILES: "write the GGUF files",
    StageId.COPY: "copy", StageId.GGUF_WRITE: "write {}", StageId.GGUF_DECODE: "decode with llama.cpp",
    StageId.GGUF_REFERENCE: "read with transformers", StageId.GGUF_PROVE: "prove {}",
    StageId.ENGINES: "make folders for engines", StageId.SPEED: "measure the speed", StageId.ZIP: "zip",
    StageId.SHIP_READ: "read {} at its types", StageId.SHIP_SPEED: "time all files in llama.cpp",
    StageId.SCENE: "play the scene", StageId.CAST: "draft {}",
    StageId.SCRIPT: "answer the script: {}", StageId.COMPARE: "compare the answers", StageId.EXAM: "exam of {}",
    StageId.DOSSIER: "dossier by {}",
    StageId.INTERVIEW: "ask {}", StageId.ASSESS: "measure: {}",
    StageId.BENCHMARK: "{}",
}
READINGS: dict[ReadingId, str] = {
    ReadingId.DENSE: "dense", ReadingId.RANDOM: "random", ReadingId.MAGNITUDE: "magnitude", ReadingId.WANDA: "wanda",
    ReadingId.MASK: "mask", ReadingId.RECONSTRUCTED: "mask, reconstructed", ReadingId.TUNED: "mask, reconstructed and tuned",
    ReadingId.RECOVERED: "mask, recovered", ReadingId.RECONSTRUCTED_RECOVERED: "mask, reconstructed and recovered",
    ReadingId.TUNED_RECOVERED: "mask, reconstructed, tuned and recovered", ReadingId.MASK_STEP: "mask, step {}",
    ReadingId.DENSE_SHORT: "dense, short prompt", ReadingId.BAKED: "baked, short prompt",
    ReadingId.BAKED_TURNS: "baked, short prompt, second turns", ReadingId.BAKE_STEP: "baking, step {}",
    ReadingId.SHARED: "the cast's model", ReadingId.ADAPTED: "with its adapter",
    ReadingId.RECOVERY_STEP: "recovery, step {}", ReadingId.START_BEFORE: "start, before reconstruction",
    ReadingId.START_AFTER: "start, after reconstruction", ReadingId.MASK_BEFORE: "mask, before reconstruction",
    ReadingId.MASK_AFTER: "mask, after reconstruction", ReadingId.TUNING_BEFORE: "before tuning the layers",
    ReadingId.TUNING_AFTER: "after tuning the layers", ReadingId.TUNING_STEP: "tuning, layer {}",
    ReadingId.TUNING_AGAIN_BEFORE: "before tuning the layers again",
    ReadingId.TUNING_AGAIN_AFTER: "after tuning the layers again", ReadingId.BENCHMARK: "{}",
}
REJECTIONS: dict[Rejection, str] = {
    Rejection.EMPTY: "empty", Rejection.LOOPING: "looping", Rejection.TRUNCATED: "truncated", Rejection.REFUSAL: "refusal",
    Rejection.ASSISTANT: "assistant manners", Rejection.THIRD_PERSON: "third person", Rejection.LEAK: "prompt leak",
    Rejection.IN_SCRIPT: "asked in the test script or the dossier", Rejection.NO_TEXT: "no question or answer",
    Rejection.REPEATED: "repeated question", Rejection.TOO_LONG: "too long",
}
ARTIFACTS: dict[ArtifactId, str] = {
    ArtifactId.MODEL: "pruned model", ArtifactId.GGUF: "GGUF file", ArtifactId.ZIP: "zip file",
    ArtifactId.KNOWN_MODEL: "{} model",
}


def stage(id: str, subject: str = "") -> str:
    """A stage, with what it is done for; an unknown id as it is."""
    return _filled(STAGES, StageId, id, subject)


def reading(id: str, subject: str | int | None = "") -> str:
    """A reading, with its step or subject; an unknown id as it is."""
    return _filled(READINGS, ReadingId, id, subject)


def rejection(id: str) -> str:
    """A reason for rejecting a line; an unknown id as it is."""
    return _filled(REJECTIONS, Rejection, id, "")


def artifact(id: str, subject: str = "") -> str:
    """What was written; an unknown id as it is."""
    return _filled(ARTIFACTS, ArtifactId, id, subject)


def _filled(table, kind, id, subject) -> str:  # type: ignore[no-untyped-def]
    try:
        return str(table[kind(id)].format("" if subject is None else subject)).strip()
    except ValueError:
        return str(id)

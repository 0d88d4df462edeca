"""The ids that the engine and the studio exchange: in events, reports, work folders and the library.

An id never changes once it has been written to a disk; its label is in `engine/labels.py` (terminal) and
`studio/labels.py` (page). An id of an older version is translated by `engine/base/migrate.py`.
"""

from enum import StrEnum


class StageId(StrEnum):
    """A stage of a long job. Where a stage is done for several things, the event's `subject` names the one."""

    FETCH = "fetch_model"  # subject: the model's name
    CONVERT = "convert_starter"  # subject: the same
    LOAD = "load_model"
    SCORE = "score_questions"
    ASK = "make_up_questions"
    ANSWERS = "write_answers"
    SAMPLES = "write_extra_samples"
    DENSE = "read_dense"
    RECONSTRUCT_START = "reconstruct_start"
    LEARN_MASK = "learn_mask"
    RECONSTRUCT = "reconstruct"
    TUNE = "tune_layers"
    TUNE_AGAIN = "tune_layers_again"
    RECOVER = "recover"
    ADAPT = "learn_adapter"  # subject: the character
    TALKS = "write_conversations"
    BAKE = "bake"
    MEASURE = "measure"
    IMPORTANCE = "read_importance"
    EXPORT = "export"
    PROVE = "prove"
    GGUF_FILES = "write_gguf_files"
    COPY = "copy"
    GGUF_WRITE = "write_gguf"  # subject: the file type
    GGUF_DECODE = "decode_gguf"
    GGUF_REFERENCE = "read_gguf_reference"
    GGUF_PROVE = "prove_gguf"  # subject: the file type
    ENGINES = "make_engine_folders"
    SPEED = "measure_speed"
    ZIP = "zip"
    SHIP_READ = "read_for_shipping"  # subject: the model's name
    SHIP_SPEED = "time_for_shipping"
    SCENE = "play_scene"
    CAST = "draft_cast"  # subject: the character, at first the model that writes
    SCRIPT = "answer_script"  # subject: the model's name
    COMPARE = "compare_answers"
    EXAM = "take_exam"  # subject: the judge
    DOSSIER = "write_dossier"  # subject: the model that writes
    INTERVIEW = "ask_for_evaluation"  # subject: the speaker's name
    ASSESS = "assess"  # subject: the measure's label
    BENCHMARK = "benchmark"  # subject: what is measured


class ReadingId(StrEnum):
    """What a fidelity reading is of. On the test lines the rungs of the ladder; on the validation lines steps and trials."""

    DENSE = "dense"
    RANDOM = "random"
    MAGNITUDE = "magnitude"
    WANDA = "wanda"
    MASK = "mask"
    RECONSTRUCTED = "mask_reconstructed"
    TUNED = "mask_tuned"
    RECOVERED = "mask_recovered"
    RECONSTRUCTED_RECOVERED = "mask_reconstructed_recovered"
    TUNED_RECOVERED = "mask_tuned_recovered"
    SHARED = "shared_model"  # a character of a cast on the one model; the event's `subject` says which
    ADAPTED = "shared_model_adapted"
    MASK_STEP = "mask_step"  # the event's `step` says which
    RECOVERY_STEP = "recovery_step"
    DENSE_SHORT = "dense_short_prompt"
    BAKED = "baked"
    BAKED_TURNS = "baked_later_turns"
    BAKE_STEP = "bake_step"
    START_BEFORE = "start_before_reconstruction"
    START_AFTER = "start_after_reconstruction"
    MASK_BEFORE = "mask_before_reconstruction"
    MASK_AFTER = "mask_after_reconstruction"
    TUNING_BEFORE = "before_tuning"
    TUNING_AFTER = "after_tuning"
    TUNING_STEP = "tuning_step"  # the event's `step` says how many layers are tuned
    TUNING_AGAIN_BEFORE = "before_tuning_again"
    TUNING_AGAIN_AFTER = "after_tuning_again"
    BENCHMARK = "benchmark"  # the event's `subject` says of what


# The readings of the one-shot methods in engine/pruning/importance.py, for those that import no torch.
BASELINES = (ReadingId.RANDOM, ReadingId.MAGNITUDE, ReadingId.WANDA)


class Rejection(StrEnum):
    """Why a question or an answer was left out of the calibration lines."""

    EMPTY = "empty"
    LOOPING = "looping"
    TRUNCATED = "truncated"
    REFUSAL = "refusal"
    ASSISTANT = "assistant_manners"
    THIRD_PERSON = "third_person"
    LEAK = "prompt_leak"
    IN_SCRIPT = "in_test_script"
    NO_TEXT = "no_question_or_answer"
    REPEATED = "repeated_question"
    TOO_LONG = "too_long"


class Doubt(StrEnum):
    """Why a person should look at a line first, beside the reasons for which lines are left out."""

    SHORT = "short"
    CODE = "code"
    OTHER_NAME = "other_name"  # a character or a model that the card does not know


class ArtifactId(StrEnum):
    """What a Saved event wrote."""

    MODEL = "pruned_model"
    GGUF = "gguf_file"  # subject: the file type
    ZIP = "zip_file"
    KNOWN_MODEL = "starter_model"  # subject: its name


class FinishReason(StrEnum):
    """Why an answer ended."""

    ENDED = "ended"  # the character had finished
    LIMIT = "limit"  # the longest answer allowed
    LOOP = "loop"  # the model repeated itself
    STOPPED = "stopped"  # the user stopped it
    FAILED = "failed"


class Verdict(StrEnum):
    """How a model did at a question of a test script."""

    PASS = "pass"
    FAIL = "fail"
    OPEN = "not judged"


class Outcome(StrEnum):
    """What a measure says of a run beside the dense model."""

    HOLDS = "holds"
    LOST = "lost"
    UNSURE = "unsure"
    UNMEASURED = "unmeasured"


class ErrorCode(StrEnum):
    """Which error a UserError or a Failed event is, where the advice depends on where it is read."""

    OTHER = "other"
    DEFECT = "defect"
    MEMORY = "memory"
    DISK_FULL = "disk_full"
    SERVER = "server"  # a teacher server failed; what it answered is kept
    LINES_DAMAGED = "lines_damaged"
    LINES_CHANGED = "lines_changed"
    WORK_DAMAGED = "work_damaged"
    NOTHING_LEFT = "nothing_left"  # the cut would remove every channel
    NOTHING_REMOVED = "nothing_removed"
    PORT = "port"  # a server cannot listen there
    NO_GGUF = "no_gguf"  # llama.cpp cannot take the model

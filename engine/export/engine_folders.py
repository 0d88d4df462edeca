"""The engines' folders of an export that is not visible yet, and the two speeds; the report tells of them.

Works on a folder that has its GGUF files already.
"""

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.files import read_json, update_manifest, write_json
from engine.base.model_folder import known_shapes
from engine.base.sizes import TOLD, expected_bytes
from engine.export.engines import choose_file, write_engine
from engine.export.gguf_writer import FOLDER
from engine.export.model_card import write_readme
from engine.export.pack import make_pack
from engine.export.verify import measure_speed

STAGE = "make ready for engines"
SPEED_STAGE = "measure the speed"


def add_engines(folder: Path, engines: Sequence[str]) -> Generator[Event, None, None]:
    """Write the folders of the engines (of ENGINES, each once)."""
    from engine.models.loading import load_tokenizer, locate

    yield Stage(STAGE, len(engines))
    source = yield from locate(str(folder))
    pack = make_pack(folder, choose_file([file.name for file in (folder / FOLDER).glob("*.gguf")]), load_tokenizer(source))
    written = {}
    for number, engine in enumerate(engines, 1):
        written[engine] = write_engine(folder, engine, pack)
        yield Step(STAGE, number, len(engines))
    tell(folder, engines=written)


def find_dense(model: str) -> Generator[Event, None, Path]:
    """The folder of the dense model. Raises UserError where it is gone."""
    from engine.models.loading import locate

    try:
        source = yield from locate(model)
    except UserError as error:
        raise UserError(f"The dense model {model} is not on this machine any more, so the two speeds cannot be compared.",
                        "Export without measuring, or put the model back.") from error
    return source.folder


def add_speed(folder: Path, dense: Path) -> Generator[Event, None, None]:
    """Measure the dense model and the folder's own, one after the other."""
    timed = yield from measure_speed(dense, folder, str(read_json(folder / "report.json").get("dtype", "float32")), SPEED_STAGE)
    tell(folder, speed=[{name: value for name, value in dataclasses.asdict(one).items() if name != "time"} for one in timed])


def finish_words(folder: Path) -> None:
    """Put the sizes by format into the report, and write what is for readers from all that it tells by now."""
    shapes = known_shapes(folder)
    tell(folder, expected_bytes={name: expected_bytes(shapes, name) for name in TOLD})
    write_readme(folder, read_json(folder / "report.json"), read_json(folder / "character.json"))


def tell(folder: Path, **more: object) -> None:
    """Put more into a folder's report, and what that makes of the file into its manifest."""
    write_json(folder / "report.json", {**read_json(folder / "report.json"), **more})
    update_manifest(folder, "report.json")

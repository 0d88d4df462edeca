"""How many tokens a text is for a model, counted in the studio's own process without torch.

Reads the tokenizer.json of the model's folder (a known model's, a folder's, or the
hub cache's). Where there is none yet, it estimates and says so. Knows nothing of
chat templates: the exact prompt comes from the chat worker.
"""

import logging
import threading
from pathlib import Path

from tokenizers import Tokenizer

from engine.base.errors import UserError
from engine.base.files import is_file, read_untrusted_json, require_plain
from engine.base.known_models import KNOWN
from engine.base.model_config import LIMIT as CONFIG_LIMIT

CHARACTERS_A_TOKEN = 4.2  # of English prose; only until the model's own tokenizer is here
LARGEST = 100_000_000  # bytes of a tokenizer.json; the largest have a third of it


class TokenCounter:
    """Counts tokens by model name; a tokenizer is read once and read again when its file has changed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.known: dict[Path, tuple[float, Tokenizer]] = {}
        self.lock = threading.Lock()

    def count(self, model: str, text: str) -> int:
        """Tokens of a text (no special tokens are added); an estimate where `exact` is false."""
        tokenizer = self._tokenizer(model)
        if tokenizer is None:
            return round(len(text) / CHARACTERS_A_TOKEN)
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    def exact(self, model: str) -> bool:
        """Whether the model's own tokenizer counts."""
        return self._tokenizer(model) is not None

    def context(self, model: str) -> int | None:
        """How many tokens the model can hold at most, from the config beside its tokenizer; None where that is not known."""
        file = self._file(model)
        if file is None:
            return None
        try:
            return int(read_untrusted_json(file.parent / "config.json", CONFIG_LIMIT)["max_position_embeddings"])
        except (UserError, ValueError, KeyError, TypeError, OverflowError):
            return None

    def _tokenizer(self, model: str) -> Tokenizer | None:
        file = self._file(model)
        if file is None:
            return None
        with self.lock:
            changed = file.stat().st_mtime
            if file not in self.known or self.known[file][0] != changed:
                try:
                    require_plain(file, LARGEST)
                    self.known[file] = (changed, Tokenizer.from_file(str(file)))
                except Exception:  # the library raises bare Exception for a damaged file
                    logging.getLogger(__name__).exception("tokenizer %s", file)
                    return None
            return self.known[file][1]

    def _file(self, model: str) -> Path | None:
        folder = self.home / "models" / KNOWN[model].folder_name if model in KNOWN else Path(model)
        file = folder / "tokenizer.json"
        if is_file(file):
            return file
        if model in KNOWN or model.count("/") != 1:
            return None
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(model, "tokenizer.json")
        except HFValidationError:
            return None
        return Path(cached) if isinstance(cached, str) else None

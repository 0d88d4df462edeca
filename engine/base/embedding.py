"""What a short text is about, as a vector: the mean of the static vectors of its tokens, from the package wordllama (MIT).

Its wheel holds the vectors (32,000 x 256, 16 MB, distilled from the token embeddings of large models) and their tokenizer, so that
nothing is fetched. Only these two files are read: the package's own loader looks for the tokenizer in the wrong folder and then on
the network, and importing it changes how this process logs. Players' facts are recalled by it, and replies compared with cards.
"""

import functools
import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

_WEIGHTS, _TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"
_LONGEST = 2_000  # characters of a text that are read


@functools.cache
def embedder() -> "Callable[[Sequence[str]], np.ndarray] | None":
    """A function from texts to unit vectors (n, 256) in float32, zeros for an empty text; None where the package is not there."""
    found = importlib.util.find_spec("wordllama")
    folder = Path(next(iter(found.submodule_search_locations or ()), "")) if found else Path()
    if not (folder / _WEIGHTS).is_file() or not (folder / _TOKENIZER).is_file():
        logging.info("the package wordllama is not installed: texts are compared by words alone, or not at all")
        return None
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    table = load_file(folder / _WEIGHTS)["embedding.weight"]  # (V, d), float16
    tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))

    tokenizer.no_padding()

    def vectors(texts: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(texts), table.shape[1]), np.float32)  # (n, d)
        for place, coded in enumerate(tokenizer.encode_batch([text[:_LONGEST] for text in texts], add_special_tokens=False)):
            if coded.ids:
                mean = table[coded.ids].astype(np.float32).mean(axis=0)  # (T, d) -> (d,)
                found[place] = mean / max(float(np.linalg.norm(mean)), 1e-9)
        return found

    return vectors

"""The proof of GGUF files: llama.cpp loads each, and is compared with transformers at every position of some texts.

llama.cpp decodes the texts greedily from the most precise file; transformers reads them in fp32, once; then every file reads
them position by position. Where a file's likeliest token is transformers' likeliest token everywhere, greedy decoding gives
the same text in both. Each program runs in a fresh process: llama_cpp.py and plain_transformers.py.
"""

import json
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import psutil
from numpy.typing import NDArray
from safetensors.numpy import load_file

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step, Warned
from engine.base.families import FAMILIES
from engine.base.ids import StageId
from engine.base.pruning_events import ProvedFile
from engine.base.sizes import WRITTEN
from engine.base.weights import count_parameters
from engine.cards.card import parse_card
from engine.cards.prompt import Message, messages
from engine.export.gguf_metadata import ends_of
from engine.export.verify import run
from engine.models.chat_format import render_chat
from engine.models.loading import ModelSource, load_config, load_tokenizer, locate

TOKENS = 32  # decoded after each question
QUESTIONS = (
    "Hello. Who are you?", "What do you do all day?", "I have never been here before.", "What should I be afraid of?",
    "Do you trust me?", "Tell me about the person you miss most.", "What is that in your hand?", "Can you help me find my way?",
    "I think you are lying.", "What would you do with a hundred coins?", "Have you eaten today?", "It is cold tonight.",
    "Who taught you that?", "What is the best thing that happened this year?", "Leave me alone.", "Is there any work for me?",
    "What does the sky look like where you come from?", "Sing me something.", "I brought you a letter.", "Goodbye, then.",
)
SPELLINGS = (
    "Hello, world!", "  two  spaces and\ta tab", "line\n\n\nbreaks \r\n here", "in 1984 there were 1234567 of 3.5", "don't WE'LL",
    "naïve façade Zoë", "日本語と한국어", "Привет, мир", "🎉👩‍👩‍👧 and 🇪🇺", "x = a[i]->b(); // done", "", " ", "...!?---", "¿Qué?",
)
# The largest KL, nats a token, that rounding explains: a wrong order of rows or a forgotten norm reads 1 or more. And how far
# apart, in nats, transformers' two best tokens may be for the other order of the two to count as rounding (F32 and F16).
LARGEST_KL = {"F32": 1e-4, "F16": 1e-3, "BF16": 0.02, "Q8_0": 0.1}
TIE = {"F32": 5e-3, "F16": 0.02}
_COARSE_KL = 1.5  # of files with 6 bits and fewer, from which small models suffer much


@dataclass(frozen=True)
class GgufProof:
    """The comparison of one file with transformers.

    `covered`: probability of the compared tokens; all others are one bucket, so `kl` is a lower bound, close where it is near 1.
    `spelled`: how many of `spellings` texts both split into the same tokens. Speed and memory are llama.cpp's with one
    conversation and `threads` threads, on this machine, at this time.
    """

    type: str
    prompts: int
    tokens: int
    same: int
    ties: int
    kl: float
    covered: float
    spelled: int
    spellings: int
    tokens_per_second: float
    speed_tokens: int
    prompt_tokens_per_second: float
    memory_bytes: int
    load_seconds: float
    threads: int
    reference: str  # the number format in which transformers computed

    @property
    def agrees(self) -> bool:
        """Whether the file does what the folder does, as far as its number format can."""
        exact = self.type not in TIE or self.same + self.ties == self.tokens or self.reference != "float32"
        return exact and self.kl <= LARGEST_KL.get(self.type, _COARSE_KL)


def prove_files(folder: Path, files: dict[str, Path]) -> Generator[Event, None, dict[str, GgufProof]]:
    """Prove the files of a folder, by type; yields stages, steps, and a ProvedFile each.

    Raises UserError when llama.cpp does not load a file, or when a file contradicts the folder.
    """
    source = yield from locate(str(folder))
    tokenizer = load_tokenizer(source)
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in _prompts(source, tokenizer)]
    order = sorted(files, key=WRITTEN.index)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        banned = sorted({*tokenizer.all_special_ids, *ends_of(source.folder, load_config(source)),  # they would end a text
                         *(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)})
        request = {"do": "speak", "file": str(files[order[0]].resolve()), "prompts": prompts, "tokens": TOKENS, "banned": banned}
        texts = (yield from ask("llama_cpp", request, StageId.GGUF_DECODE))["texts"]
        reference = yield from _read_reference(source, prompts, texts, work / "reference.safetensors")
        proofs = {}
        for type in order:
            request = {"do": "read", "file": str(files[type].resolve()), "prompts": prompts, "texts": texts,
                       "spellings": SPELLINGS, "out": str(work / "top.json"),
                       "plain": tokenizer("a", add_special_tokens=False)["input_ids"][-1]}
            found = yield from ask("llama_cpp", request, StageId.GGUF_PROVE, type)
            proofs[type] = _judge(type, reference, json.loads((work / "top.json").read_text()), found, tokenizer)
            proof = proofs[type]
            if not proof.agrees:
                raise UserError(f"The {type} file failed its proof, so it was not kept: llama.cpp gives the same token as "
                                f"transformers {proof.same} of {proof.tokens} times (and {proof.ties} ties), KL {proof.kl:.3g}.",
                                "Please report this with the model's config.json.")
            if proof.spelled < proof.spellings:
                yield Warned(f"llama.cpp splits {proof.spellings - proof.spelled} of {proof.spellings} awkward texts into other "
                             "tokens than transformers does.")
            yield ProvedFile(type, proof.prompts, proof.tokens, proof.same, proof.ties, proof.kl, proof.tokens_per_second,
                             proof.memory_bytes)
    return proofs


def ask(program: str, request: dict[str, Any], stage: StageId, subject: str = "") -> Generator[Event, None, dict[str, Any]]:
    """Run a program of a fresh process as a stage of its own, a step a prompt. Raises UserError when it fails."""
    total = len(request["prompts"])
    yield Stage(stage, total, subject=subject)
    return (yield from run(program, request, Step(stage, 0, total, subject=subject), "The proof failed"))


def _prompts(source: ModelSource, tokenizer: Any) -> list[str]:
    """The questions as the model is asked them: in the character's conversation, where the folder has a card."""
    file = source.folder / "character.json"
    card = parse_card(file.read_bytes(), str(file)) if file.is_file() else None
    asked: list[list[Message]] = [messages(card, [("user", question)]) if card else [{"role": "user", "content": question}]
                                  for question in QUESTIONS]
    return [render_chat(tokenizer, one) for one in asked]


def _read_reference(source: ModelSource, prompts: list[list[int]], texts: list[list[int]],
                    out: Path) -> Generator[Event, None, dict[str, Any]]:
    """Tokens and log-probabilities (positions, kept) by transformers, in fp32 where the weights fit into the free memory."""
    fits = count_parameters(source.folder) * 4 * 1.2 < psutil.virtual_memory().available
    dtype = "float32" if fits else source.own_dtype or "bfloat16"
    yield from ask("plain_transformers", {
        "do": "read", "folder": str(source.folder), "prompts": prompts, "texts": texts, "out": str(out), "dtype": dtype,
        "attention": FAMILIES[source.config["model_type"]].attention}, StageId.GGUF_REFERENCE)
    return {**load_file(out), "dtype": dtype, "prompts": len(prompts)}


def _judge(type: str, reference: dict[str, Any], top: list[list[list[list[float]]]], found: dict[str, Any],
           tokenizer: Any) -> GgufProof:
    positions = [position for text in top for position in text]
    same = ties = 0
    kls, covered = [], []
    for tokens, logprobs, position in zip(reference["tokens"], reference["logprobs"], positions, strict=True):
        said = {int(token): float(value) for token, value in position}
        best = max(said, key=lambda token: said[token])
        if best == tokens[0]:
            same += 1
        elif (place := numpy.flatnonzero(tokens == best)).size and logprobs[0] - logprobs[place[0]] <= TIE.get(type, 0):
            ties += 1
        kl, share = divergence(tokens, logprobs, said)
        kls.append(kl)
        covered.append(share)
    spelled = sum(tokenizer(text)["input_ids"] == ids for text, ids in zip(SPELLINGS, found.pop("spelled"), strict=True))
    return GgufProof(type, reference["prompts"], len(positions), same, ties, float(numpy.mean(kls)), float(numpy.mean(covered)),
                     spelled, len(SPELLINGS), reference=reference["dtype"], **found)


def divergence(tokens: NDArray[Any], logprobs: NDArray[Any], said: dict[int, float]) -> tuple[float, float]:
    """KL in nats of the reference (its best `tokens` and their `logprobs`) against `said`, over the tokens that both have.

    All other tokens count as one, which makes the KL at most smaller (data processing inequality). The second value is
    the reference's share of probability on the tokens that both have.
    """
    both = numpy.isin(tokens, list(said))
    p = numpy.exp(logprobs[both].astype(numpy.float64))
    log_q = numpy.array([said[int(token)] for token in tokens[both]])
    rest_p, rest_q = max(1 - p.sum(), 1e-12), max(1 - numpy.exp(log_q).sum(), 1e-12)
    kl = float((p * (logprobs[both] - log_q)).sum() + rest_p * numpy.log(rest_p / rest_q))
    return max(kl, 0.0), float(p.sum())

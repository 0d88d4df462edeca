"""The supported families of models: everything that differs between them. To add a family, add its entry here.

A family is a `model_type` of config.json. All are decoders with a gated feed-forward network, FFN(x) = W_down (act(W_gate x) *
(W_up x)), and pre-norm attention as transformers implements it. tests/tiny.py makes a tiny model of each, on which the tests
run the whole pipeline.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gguf:
    """How llama.cpp implements a family.

    architecture: its name in gguf.MODEL_ARCH. interleaved: its rotary embedding rotates neighbouring channels, not the halves
    of a head. shifted: transformers' norms multiply by 1 + weight, llama.cpp's by the weight. windows: some layers have a
    sliding window, in a pattern that is written into the file. activation: the only one it computes.
    """

    architecture: str
    interleaved: bool = False
    shifted: bool = False
    windows: bool = False
    activation: str = "silu"
    scaled_by_width: int = 0  # models with this many layers (the largest) scale attention by hidden size / heads
    no_rope_step: int = 0  # every n-th layer has no rotary embedding


@dataclass(frozen=True)
class Family:
    """One family.

    gate_and_up: names of W_gate and W_up in a layer's `mlp`, or of the one matrix that holds both, gate's rows first.
    head_size: D, where configs may leave it out. attention: transformers' implementation. norm_after_ffn: the FFN's output is
    normalised before it is added to the stream, so the errors of a cut cannot be propagated layer by layer. stepped: built
    like llama, so models/steps.py can compute single tokens. chat: the chat format (models/templates.py) of a model that
    brings no template. gguf: None where llama.cpp's file cannot be written.
    """

    gate_and_up: tuple[str, ...] = ("gate_proj", "up_proj")
    head_size: int | None = None
    attention: str = "sdpa"
    norm_after_ffn: bool = False
    stepped: bool = False
    chat: str = "chatml"
    gguf: Gguf | None = None


_GELU = "gelu_pytorch_tanh"

FAMILIES = {
    "llama": Family(stepped=True, chat="llama3", gguf=Gguf("LLAMA", interleaved=True)),
    "mistral": Family(stepped=True, chat="mistral", gguf=Gguf("LLAMA", interleaved=True)),
    "qwen2": Family(stepped=True, gguf=Gguf("QWEN2")),
    "qwen3": Family(stepped=True, head_size=128, gguf=Gguf("QWEN3")),
    "smollm3": Family(stepped=True, gguf=Gguf("SMOLLM3", interleaved=True, no_rope_step=4)),
    # The soft cap on gemma2's attention logits exists in the eager implementation only.
    "gemma2": Family(head_size=256, norm_after_ffn=True, chat="gemma", attention="eager", gguf=Gguf(
        "GEMMA2", shifted=True, windows=True, activation=_GELU, scaled_by_width=46)),
    "gemma3_text": Family(head_size=256, norm_after_ffn=True, chat="gemma", gguf=Gguf(
        "GEMMA3", shifted=True, windows=True, activation=_GELU, scaled_by_width=62)),
    "olmo2": Family(norm_after_ffn=True),
    "granite": Family(chat="granite"),
    "phi3": Family(gate_and_up=("gate_up_proj",), chat="phi3"),
}

_EXPERTS = "their feed-forward networks are mixtures of experts"
_NO_GATE = "their feed-forward networks have no gate"
_IMAGES = "they read images as well"
REFUSED = {
    "mixtral": _EXPERTS, "qwen2_moe": _EXPERTS, "qwen3_moe": _EXPERTS, "deepseek_v3": _EXPERTS, "gpt_oss": _EXPERTS,
    "gpt2": _NO_GATE, "gpt_neox": _NO_GATE, "opt": _NO_GATE, "phi": _NO_GATE, "falcon": _NO_GATE,
    "gemma3": _IMAGES, "llama4": _IMAGES, "mistral3": _IMAGES, "qwen2_5_vl": _IMAGES,
}

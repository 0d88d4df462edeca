"""What the config.json of a model may say, and whether its weights are what it says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.base.errors import UserError
from engine.base.families import FAMILIES, REFUSED
from engine.base.files import read_untrusted_json
from engine.base.weights import AGAIN

LIMIT = 1_000_000  # bytes of config.json
Tokens = Annotated[int, Field(ge=1, le=1_000_000_000)]
Heads = Annotated[int, Field(ge=1, le=4_096)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]
TokenIds = int | list[int] | None
DtypeName = Annotated[str, Field(pattern=r"^(torch\.)?(auto|float16|bfloat16|float32|float64)$")] | None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class Rope(_Strict):
    """The rotary embedding's parameters, as rope_scaling and rope_parameters give them."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Positive | None = None
    factor: Positive | None = None
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    mscale: Annotated[float, Field(ge=0, le=1e6)] | None = None
    mscale_all_dim: Annotated[float, Field(ge=0, le=1e6)] | None = None
    original_max_position_embeddings: Tokens | None = None
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    short_factor: list[Positive] | None = None
    long_factor: list[Positive] | None = None


class Config(_Strict):
    """The fields of config.json; sizes are what a decoder with a gated FFN cannot do without."""

    model_type: str
    vocab_size: Annotated[int, Field(ge=1, le=4_000_000)]
    hidden_size: Annotated[int, Field(ge=1, le=65_536)]
    intermediate_size: Annotated[int, Field(ge=1, le=1_000_000)]
    num_hidden_layers: Annotated[int, Field(ge=1, le=1_000)]
    num_attention_heads: Heads
    num_key_value_heads: Heads | None = None
    head_dim: Annotated[int, Field(ge=2, le=4_096, multiple_of=2)] | None = None
    max_position_embeddings: Tokens | None = None
    original_max_position_embeddings: Tokens | None = None
    sliding_window: Tokens | None = None
    max_window_layers: Annotated[int, Field(ge=0, le=1_000)] | None = None
    sliding_window_pattern: Annotated[int, Field(ge=1, le=1_000)] | None = None
    no_rope_layer_interval: Annotated[int, Field(ge=1, le=1_000)] | None = None
    no_rope_layers: list[Literal[0, 1]] | None = None
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    num_labels: Annotated[int, Field(ge=0, le=10_000)] | None = None  # transformers makes a name for each
    rms_norm_eps: Annotated[float, Field(gt=0, le=0.1)] | None = None
    initializer_range: Share | None = None
    rope_theta: Positive | None = None
    rope_local_base_freq: Positive | None = None
    rope_scaling: Rope | dict[str, Rope | None] | None = None
    rope_parameters: Rope | dict[str, Rope | None] | None = None
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    query_pre_attn_scalar: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
    embedding_multiplier: Positive | None = None
    attention_multiplier: Positive | None = None
    residual_multiplier: Positive | None = None
    logits_scaling: Positive | None = None
    attention_dropout: Share | None = None
    resid_pdrop: Share | None = None
    embd_pdrop: Share | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    tie_word_embeddings: bool | None = None
    use_sliding_window: bool | None = None
    hidden_act: str | None = None
    hidden_activation: str | None = None
    dtype: DtypeName = None
    torch_dtype: DtypeName = None
    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    pad_token_id: int | None = None


class Generation(_Strict):
    """The fields of generation_config.json that are read here."""

    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    pad_token_id: TokenIds = None


_Declared = TypeVar("_Declared", Config, Generation)


def check_config(path: Path) -> dict[str, Any]:
    """The parsed config.json of an allowed family. Raises UserError for anything else."""
    if not (path.exists() or path.is_symlink()):
        if any(path.parent.glob("*.gguf")):
            raise gguf_instead(path.parent, "holds a GGUF file")
        raise UserError(f"{path.parent} holds no model: there is no config.json.",
                        "Give a folder with config.json, *.safetensors and a tokenizer, or a hub name like owner/name.")
    config = read_untrusted_json(path, LIMIT)
    refuse_code(path, config)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        reason = f": {REFUSED[family]}" if isinstance(family, str) and family in REFUSED else ""
        raise UserError(f"Models of the kind {str(family)[:40]!r} are not supported{reason}.",
                        f"Supported: {', '.join(sorted(FAMILIES))}.")
    if config.get("quantization_config"):
        raise UserError(f"The weights in {path.parent} are quantised already, and cannot be pruned.",
                        "Use the 16-bit original; it can be loaded in 8 or 4 bit here.")
    if fault := _contradiction(_declared(Config, path, config)):
        raise UserError(f"{path} is damaged: {fault}.", AGAIN)
    return config


def check_generation(path: Path) -> None:
    """Raise UserError where generation_config.json is no JSON object, or names tokens by what is no number."""
    _declared(Generation, path, read_untrusted_json(path, LIMIT))


def _declared(kind: type[_Declared], path: Path, value: dict[str, Any]) -> _Declared:
    """A JSON object as its declaration has it. Raises UserError that names the first field at fault."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        fault = f"{name} is missing" if first["type"] == "missing" else f"{name} is {str(value[name])[:40]}"
        raise UserError(f"{path} is damaged: {fault}.", AGAIN) from error


def check_shapes(folder: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError unless a folder's tensors are as many and as large as its config says.

    transformers would take the memory first, for whatever sizes the config names, and make the missing weights up.
    """
    layers, expected, fault = config["num_hidden_layers"], _expected(config), ""
    for name, shape in shapes.items():
        parts = name.removeprefix("model.").split(".")
        if parts[0] == "layers" and parts[1:2] and parts[1].isdecimal() and int(parts[1]) >= layers:
            fault = fault or f"{name} is left over"
        wanted = expected.get(".".join(parts[-2:]))
        if wanted and shape != wanted:
            fault = fault or f"{name} has the shape {list(shape)[:9]} instead of {list(wanted)}"
    for part in ["embed_tokens.weight", *(f"layers.{one}.mlp.down_proj.weight" for one in range(layers))]:
        if part not in shapes and f"model.{part}" not in shapes:
            fault = fault or f"model.{part} is missing"
    if fault:
        raise UserError(f"The weights in {folder} do not fit its config.json ({fault[:300]}).", AGAIN)


def _expected(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the large tensors, by the ends of their names."""
    hidden, wide, heads, vocabulary = (config[name] for name in (
        "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"))
    size, key_heads = _head_size(config), config.get("num_key_value_heads")
    expected: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden), "down_proj.weight": (hidden, wide),
        "q_proj.weight": (heads * size, hidden), "o_proj.weight": (hidden, heads * size)}
    rows = FAMILIES[config["model_type"]].gate_and_up
    expected |= {f"{name}.weight": (2 * wide // len(rows), hidden) for name in rows}
    if key_heads:
        expected |= {"k_proj.weight": (key_heads * size, hidden), "v_proj.weight": (key_heads * size, hidden),
                     "qkv_proj.weight": ((heads + 2 * key_heads) * size, hidden)}
    return expected


def _head_size(config: dict[str, Any]) -> int:
    """D, also where the config leaves it to its family."""
    return (config.get("head_dim") or FAMILIES[config["model_type"]].head_size
            or config["hidden_size"] // config["num_attention_heads"])


def gguf_instead(place: Path | str, what: str) -> UserError:
    """The sentence for a model in a form that is only for running it; `what`: "is a GGUF file"."""
    return UserError(f"{place} {what}, which is for running a model, not for pruning it.",
                     "Models are pruned from their 16-bit originals: give the original's name on the hub, like owner/name, "
                     "or a folder with its config.json and *.safetensors.")


def _contradiction(config: Config) -> str:
    """Which two fields of a config contradict each other; "" where none do."""
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    if heads % key_heads:
        return f"{heads} heads cannot share {key_heads} key and value heads"
    if config.head_dim is None and not FAMILIES[config.model_type].head_size and config.hidden_size % (2 * heads):
        return f"a hidden size of {config.hidden_size} cannot be shared by {heads} heads"
    for name in ("layer_types", "no_rope_layers"):
        if (given := getattr(config, name)) is not None and len(given) != config.num_hidden_layers:
            return f"{name} has {len(given)} entries for {config.num_hidden_layers} layers"
    if config.pad_token_id is not None and not -config.vocab_size <= config.pad_token_id < config.vocab_size:
        return f"pad_token_id is {config.pad_token_id}, and the vocabulary has {config.vocab_size} tokens"
    size = _head_size(config.model_dump())
    for rope in _ropes(config.rope_scaling, config.rope_parameters):
        turned = int(size * (rope.partial_rotary_factor or config.partial_rotary_factor or 1)) // 2
        if any(factors is not None and len(factors) != turned for factors in (rope.short_factor, rope.long_factor)):
            return f"its rotary embedding needs {turned} short and long factors"
        if rope.low_freq_factor and rope.high_freq_factor and rope.low_freq_factor >= rope.high_freq_factor:
            return f"low_freq_factor {rope.low_freq_factor:g} is not below high_freq_factor {rope.high_freq_factor:g}"
    return ""


def _ropes(*given: Rope | dict[str, Rope | None] | None) -> list[Rope]:
    """All rotary embeddings: one, or one for each type of layer."""
    found = [one for value in given for one in (value.values() if isinstance(value, dict) else [value])]
    return [one for one in found if one is not None]


def refuse_code(path: Path, value: Any) -> None:
    """Raise UserError where the JSON of a file names Python code to be run (`auto_map`), at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "auto_map" in item:
                raise UserError(f"{path.parent} asks to run Python code of its own (auto_map in {path.name}).",
                                "Persona Studio never runs it: choose a model without custom code.")
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)

"""A GGUF file in parts, as llama-gguf-split makes them: NAME-00001-of-00003.gguf; llama.cpp loads them from the first."""

from collections.abc import Generator
from pathlib import Path


def split_gguf(file: Path, folder: Path, size: int) -> Generator[None, None, list[Path]]:
    """Write `file` into `folder` in parts of at most `size` bytes of weights, or one tensor that is larger; the value: the parts.

    Yields after each tensor. Reads the vocabulary, which takes seconds.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(None, architecture, split_max_size=size)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":  # the writer's own
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor_info(tensor.name, tensor.data.shape, tensor.data.dtype, tensor.n_bytes, tensor.tensor_type)
    folder.mkdir(parents=True, exist_ok=True)
    parts = writer.format_shard_names(folder / file.name)
    try:
        writer.write_header_to_file(folder / file.name)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        for out, held in zip(writer.fout, writer.tensors, strict=True):
            writer.write_padding(out, out.tell())
            for name in held:
                tensors[name].data.tofile(out)
                writer.write_padding(out, tensors[name].n_bytes)
                yield
    finally:
        writer.close()
    return parts

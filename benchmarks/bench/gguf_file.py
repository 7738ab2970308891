"""A model of models.py as a GGUF file, which llama.cpp reads: the weights in float32, and a vocabulary
without texts. Needs `pip install 'r1kit[real]'`."""

from pathlib import Path

import gguf
from safetensors.torch import load_file

from r1kit.model.config_json import read_config


def write_gguf(folder: Path, file: Path) -> Path:
    """Write the qwen3 model of ``folder`` into ``file``, unless it is there; return it."""
    if file.is_file():
        return file
    config = read_config(folder)
    assert config.family == "qwen3" and config.kv_heads and config.head_dim
    partial = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.layers)
    for name, tensor in load_file(folder / "model.safetensors").items():
        known = names.get_name(name, try_suffixes=(".weight",))
        assert known is not None, f"{name} has no name in a GGUF file"
        writer.add_tensor(known, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(file)
    return file

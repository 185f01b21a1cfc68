"""A tiny llama model as a Hugging Face directory: random weights, a byte-level tokenizer, a ChatML template.

Small enough that a training step takes milliseconds, real enough to go through everything a large one does.
"""
import json
import pathlib
import random
import struct

TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def byte_alphabet():
    """GPT-2's map from bytes to printable characters."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    out, n = {}, 0
    for b in range(256):
        if b in plain:
            out[b] = chr(b)
        else:
            out[b] = chr(0x100 + n)
            n += 1
    return out


def write_tokenizer(path):
    """Byte-level, without merges, and a ChatML template; returns the size of the vocabulary."""
    d = pathlib.Path(path)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {s: i for i, s in enumerate(specials)}
    for b, c in byte_alphabet().items():
        vocab[c] = len(vocab)
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, s in enumerate(specials)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (d / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}))
    (d / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>",
                                                         "chat_template": TEMPLATE, "add_bos_token": False}))
    return len(vocab)


def write(path, layers=2, hidden=64, inner=128, heads=4, kv=2, seed=1):
    d = pathlib.Path(path)
    d.mkdir(parents=True, exist_ok=True)
    n_vocab = write_tokenizer(d)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
              "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": n_vocab,
              "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "tie_word_embeddings": True, "bos_token_id": 0,
              "eos_token_id": 2, "torch_dtype": "float32", "rope_theta": 10000.0}
    (d / "config.json").write_text(json.dumps(config))
    rng = random.Random(seed)
    hd = hidden // heads
    shapes = {"model.embed_tokens.weight": (n_vocab, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes |= {p + "input_layernorm.weight": (hidden,), p + "post_attention_layernorm.weight": (hidden,),
                   p + "self_attn.q_proj.weight": (heads * hd, hidden), p + "self_attn.k_proj.weight": (kv * hd, hidden),
                   p + "self_attn.v_proj.weight": (kv * hd, hidden), p + "self_attn.o_proj.weight": (hidden, heads * hd),
                   p + "mlp.gate_proj.weight": (inner, hidden), p + "mlp.up_proj.weight": (inner, hidden),
                   p + "mlp.down_proj.weight": (hidden, inner)}
    header, blobs, at = {}, [], 0
    for name in sorted(shapes):
        n = 1
        for x in shapes[name]:
            n *= x
        norm = "norm" in name
        blob = struct.pack(f"<{n}f", *(1 + rng.gauss(0, 0.05) if norm else rng.gauss(0, 0.12) for _ in range(n)))
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (d / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return d


def chat_lines(n, seed=0):
    """n short chat lines whose answers can be learnt."""
    rng = random.Random(seed)
    lines = []
    for i in range(n):
        word = "".join(rng.choice("abcdefgh") for _ in range(rng.randint(2, 7)))
        lines.append(json.dumps({"messages": [{"role": "user", "content": f"say {word}"},
                                              {"role": "assistant", "content": f"{word}! {word.upper()}!"}]}))
    return ("\n".join(lines) + "\n").encode()

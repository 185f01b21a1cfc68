"""A model of the same function whose rows are whole blocks of 256, for judging the K types on real weights.

SmolLM2's rows of 576 are none, so that most of its tensors fall back to types of 32.  Here 576 becomes 768 = 12 heads of 64 by zeros:
zero columns of the embedding stay zero through every layer, the norms' weights and epsilon make up for the longer mean, new heads
are zero and so is what reads them.  Its source was stored in Q4_1, whose grid another type may happen to meet; so each weight is
moved by at most half a step of that grid.
"""
import numpy as np

import gguf

WIDE = 768


def widen(source, out, seed=1):
    """source: a Llama's F32 GGUF file with heads of 64, rows of up to 768; out: an F16 GGUF file."""
    r = gguf.GGUFReader(source)
    rng = np.random.default_rng(seed)
    width = int(r.get_field("llama.embedding_length").contents())
    heads, kv = (int(r.get_field("llama.attention." + k).contents()) for k in ("head_count", "head_count_kv"))
    assert width == 64 * heads and heads % kv == 0 and WIDE // 64 % (heads // kv) == 0
    new_heads, new_kv = WIDE // 64, WIDE // 64 // (heads // kv)
    eps = float(r.get_field("llama.attention.layer_norm_rms_epsilon").contents())
    changed = {"llama.embedding_length": WIDE, "llama.attention.head_count": new_heads, "llama.attention.head_count_kv": new_kv,
               "llama.attention.layer_norm_rms_epsilon": eps * width / WIDE, "general.file_type": 1}
    w = gguf.GGUFWriter(out, "llama")
    for name, f in r.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        w.add_key_value(name, changed.get(name, f.contents()), f.types[0], f.types[-1] if len(f.types) > 1 else None)
    for t in r.tensors:
        x = t.data
        if x.ndim == 1:
            w.add_tensor(t.name, np.pad(x, (0, WIDE - width)) * np.float32((width / WIDE) ** 0.5))
            continue
        if not t.name.startswith("token_embd"):
            blocks = x.reshape(-1, 32)
            step = (blocks.max(1, keepdims=True) - blocks.min(1, keepdims=True)) / np.float32(15)
            noise = rng.random(blocks.shape, np.float32)
            noise -= np.float32(0.5)
            noise *= step
            x = (noise + blocks).reshape(x.shape)
        size = {width: WIDE, 64 * kv: 64 * new_kv}
        rows, cols = (size.get(n, n) for n in x.shape)
        rows = len(x) if t.name.startswith("token_embd") else rows
        wide = np.zeros((rows, cols), np.float16)
        wide[:len(x), :x.shape[1]] = x
        w.add_tensor(t.name, wide)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

"""Other people's programs judge our formats: transformers, peft, safetensors and gguf against build/…/formats_tool.

Environment: QL_FORMATS_TOOL = path of the helper program; QL_SMOL = a SmolLM2-135M GGUF (optional)."""
import json
import os
import subprocess

import numpy as np
import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

TOOL = os.environ.get("QL_FORMATS_TOOL")
SMOL = os.environ.get("QL_SMOL")
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_FORMATS_TOOL is not set")
needs_smol = pytest.mark.skipif(not SMOL, reason="QL_SMOL is not set")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tool(*args):
    p = subprocess.run([TOOL, *map(str, args)], capture_output=True)
    assert p.returncode == 0, p.stderr.decode()
    return p.stdout


def refused(*args):
    p = subprocess.run([TOOL, *map(str, args)], capture_output=True)
    assert p.returncode == 1, (p.returncode, p.stdout)
    return p.stderr.decode()


CONFIGS = {
    "llama_tied": lambda: transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, tie_word_embeddings=True, max_position_embeddings=256),
    "llama3_rope": lambda: transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=64,
        vocab_size=128, tie_word_embeddings=False, max_position_embeddings=131072, rope_theta=500000.0,
        rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192}),
    "mistral": lambda: transformers.MistralConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, vocab_size=128),
}


@pytest.fixture(params=CONFIGS)
def model(request, tmp_path):
    torch.manual_seed(1)
    m = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]()).float().eval()
    path = tmp_path / "base"
    m.save_pretrained(path)
    return m, path


def weights(m):
    """Name -> tensor, without the second name of a tied head."""
    out = {k: v.detach().float() for k, v in m.state_dict().items()}
    if m.config.tie_word_embeddings:
        out.pop("lm_head.weight", None)
    return out


def test_source_reads_what_transformers_wrote(model):
    m, path = model
    arch = json.loads(tool("arch", path))
    assert arch["hidden"] == m.config.hidden_size and arch["vocab"] == m.config.vocab_size
    assert arch["tied"] == int(m.config.tie_word_embeddings)
    for name, w in weights(m).items():
        got = np.frombuffer(tool("dump", path, name), dtype=np.float32)
        assert np.array_equal(got, w.numpy().ravel()), name
    inv = np.frombuffer(tool("inv-freq", path), dtype=np.float32)
    want = m.model.rotary_emb.inv_freq.numpy()
    assert np.allclose(inv, want, rtol=3e-7, atol=0)


def test_source_reads_shards(model, tmp_path):
    m, _ = model
    path = tmp_path / "sharded"
    m.save_pretrained(path, max_shard_size="100KB")
    assert (path / "model.safetensors.index.json").exists()
    for name, w in weights(m).items():
        assert np.array_equal(np.frombuffer(tool("dump", path, name), dtype=np.float32), w.numpy().ravel()), name


def logits(m):
    ids = torch.arange(3, 40)[None] % m.config.vocab_size
    with torch.no_grad():
        return m(ids).logits


def check_converter(folder, m):
    """What llama.cpp's convert_lora_to_gguf asks of an adapter directory: the two files, alpha a number, every tensor half of a pair
    whose base name its table of names knows, halves of equal type that fit each other and the base's weight."""
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in folder.iterdir()}
    cfg = json.loads((folder / "adapter_config.json").read_text())
    assert isinstance(cfg["lora_alpha"], (int, float)) and isinstance(cfg["base_model_name_or_path"], str) and cfg["peft_type"] == "LORA"
    assert not cfg.get("use_dora") and not cfg.get("modules_to_save") and not cfg.get("fan_in_fan_out")
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, m.config.num_hidden_layers)
    base, pairs = weights(m), {}
    for name, w in safetensors_torch.load_file(folder / "adapter_model.safetensors").items():
        half = [h for h in ("A", "B") if f".lora_{h}.weight" in name]
        assert len(half) == 1 and name.startswith("base_model.model."), name
        pairs.setdefault(name.replace("base_model.model.", "").replace(f".lora_{half[0]}.weight", ".weight"), {})[half[0]] = w
    for name, p in pairs.items():
        assert known.get_name(name, try_suffixes=(".weight", ".bias")) is not None, name
        assert p["A"].dtype == p["B"].dtype and p["A"].shape[-2] == p["B"].shape[-1]
        assert (p["B"].shape[0], p["A"].shape[1]) == tuple(base[name].shape)


@pytest.mark.parametrize("rslora,bake,dtype", [(0, 0, "f32"), (1, 0, "f32"), (1, 1, "f32"), (0, 0, "bf16")])
def test_peft_loads_our_adapter(model, tmp_path, rslora, bake, dtype):
    m, path = model
    ours, merged = tmp_path / "adapter", tmp_path / "merged"
    ours.mkdir(), merged.mkdir()
    tool("adapter-write", path, ours, 8, 16, rslora, bake, dtype)
    check_converter(ours, m)
    cfg = json.loads((ours / "adapter_config.json").read_text())
    assert set(cfg["target_modules"]) == set(LINEARS) and isinstance(cfg["lora_alpha"], int) or bake
    raw = (ours / "adapter_model.safetensors").read_bytes()
    assert int.from_bytes(raw[:8], "little") % 8 == 0
    tensors = safetensors_torch.load_file(ours / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * m.config.num_hidden_layers
    tool("hf", path, ours, "f32", merged, "-")
    p = peft.PeftModel.from_pretrained(m, ours)
    missing = {k.replace("base_model.model.", "") for k in tensors} - {
        k.replace(".default", "").replace("base_model.model.", "") for k in p.state_dict() if "lora_" in k}
    assert not missing
    with_adapter = logits(p)
    again = transformers.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    assert torch.allclose(logits(again), with_adapter, atol=1e-4, rtol=1e-4)
    merged_by_peft = weights(p.merge_and_unload())
    for name, w in weights(again).items():
        assert torch.allclose(w, merged_by_peft[name], atol=2e-6, rtol=1e-5), name


@pytest.mark.parametrize("extra", [
    {}, {"use_rslora": True}, {"target_modules": "all-linear"}, {"target_modules": r".*\.(q|v)_proj"},
    {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 5}},
    {"layers_to_transform": [1]}, {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
    {"rank_pattern": {r"layers.1.mlp.up_proj": 3}}])
def test_we_read_peft_adapters(model, tmp_path, extra):
    m, path = model
    args = {"r": 4, "lora_alpha": 12, "target_modules": LINEARS, **extra}
    p = peft.get_peft_model(m, peft.LoraConfig(task_type="CAUSAL_LM", **args))
    with torch.no_grad():
        for name, w in p.named_parameters():
            if "lora_B" in name:
                w.normal_(0, 0.05)
    theirs, merged, baked = (tmp_path / n for n in ("adapter", "merged", "baked"))
    merged.mkdir(), baked.mkdir()
    p.save_pretrained(theirs)
    tool("adapter-copy", path, theirs, baked, 1)
    tool("hf", path, baked, "f32", merged, "-")
    n = len(tool("adapter-read", path, theirs).splitlines())
    assert n == sum("lora_A" in k for k in safetensors_torch.load_file(theirs / "adapter_model.safetensors"))
    want = weights(p.merge_and_unload())
    again = weights(transformers.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32))
    for name, w in again.items():
        assert torch.allclose(w, want[name], atol=2e-6, rtol=1e-5), name


@pytest.mark.parametrize("extra,word", [
    ({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens")])
def test_refused_peft_features(model, tmp_path, extra, word):
    m, path = model
    p = peft.get_peft_model(m, peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **extra}))
    p.save_pretrained(tmp_path / "a")
    assert word in refused("adapter-read", path, tmp_path / "a")


def permute(w, heads):
    """HF rows -> GGUF `llama` rows, as the converter writes them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


@pytest.fixture(scope="module")
def smol_reader():
    return gguf.GGUFReader(SMOL)


@needs_smol
def test_smollm2_tensors_equal_gguf_py(smol_reader):
    reader = smol_reader
    for name in ["token_embd.weight", "blk.0.attn_q.weight", "blk.29.attn_k.weight", "blk.3.attn_v.weight",
                 "blk.7.ffn_down.weight", "blk.11.attn_norm.weight"]:
        t = next(t for t in reader.tensors if t.name == name)
        want = gguf.quants.dequantize(t.data, t.tensor_type)
        if "attn_q" in name or "attn_k" in name:
            want = unpermute(want, 9 if "attn_q" in name else 3)
        if name == "token_embd.weight":
            hf = "model.embed_tokens.weight"
        else:
            _, layer, rest = name.split(".", 2)
            base = rest.removesuffix(".weight")
            hf = f"model.layers.{layer}." + ("input_layernorm" if base == "attn_norm" else NAMES[base]) + ".weight"
        assert np.array_equal(np.frombuffer(tool("dump", SMOL, hf), dtype=np.float32), want.astype(np.float32).ravel()), name


@needs_smol
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k"])
def test_merged_gguf_reads_in_gguf_py(tmp_path, smol_reader, kind):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tool("adapter-write", SMOL, adapter, 8, 16, 0, 0, "f32")
    tool("gguf", SMOL, adapter, kind, tmp_path, "m.gguf")
    reader, base = gguf.GGUFReader(tmp_path / "m.gguf"), smol_reader
    assert {t.name for t in reader.tensors} == {t.name for t in base.tensors}
    for key in base.fields:
        if key in ("general.file_type", "GGUF.kv_count", "general.quantization_version"):
            continue
        if kind == "f32" or len(base.fields[key].data) < 10:  # the long arrays once only: slow in Python
            assert reader.fields[key].contents() == base.fields[key].contents(), key
    tensors = safetensors_torch.load_file(adapter / "adapter_model.safetensors")
    tol = {"f32": 1e-6, "f16": 2e-3, "bf16": 1e-2, "q8_0": 2e-2}.get(kind, 0.35)
    for name in ["blk.0.attn_q.weight", "blk.29.attn_k.weight", "blk.3.attn_v.weight", "blk.7.ffn_down.weight"]:
        t, b = (next(t for t in r.tensors if t.name == name) for r in (reader, base))
        _, layer, rest = name.split(".", 2)
        hf = f"base_model.model.model.layers.{layer}.{NAMES[rest.removesuffix('.weight')]}"
        delta = 2.0 * (tensors[hf + ".lora_B.weight"].double() @ tensors[hf + ".lora_A.weight"].double()).numpy()
        if "attn_q" in name or "attn_k" in name:
            delta = permute(delta, 9 if "attn_q" in name else 3)
        want = gguf.quants.dequantize(b.data, b.tensor_type) + delta
        got = gguf.quants.dequantize(t.data, t.tensor_type)
        assert got.shape == want.shape and np.abs(got - want).max() < tol * max(1, np.abs(want).max()), name
    norm = next(t for t in reader.tensors if t.name == "output_norm.weight")
    assert norm.tensor_type == gguf.GGMLQuantizationType.F32


@needs_smol
@pytest.mark.parametrize("kind,rslora", [("f32", 0), ("f32", 1), ("f16", 0)])
def test_lora_gguf_reads_in_gguf_py(tmp_path, kind, rslora):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tool("adapter-write", SMOL, adapter, 8, 16, rslora, 0, "f32")
    tool("lora", SMOL, adapter, kind, tmp_path, "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    tensors = safetensors_torch.load_file(adapter / "adapter_model.safetensors")
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["adapter.lora.alpha"].contents() == pytest.approx(16 * (8 ** 0.5 if rslora else 1), rel=1e-6)
    assert len(reader.tensors) == 2 * 7 * 30
    for t in reader.tensors:
        _, layer, short, _, half = t.name.split(".")
        part = {"lora_a": "lora_A", "lora_b": "lora_B"}[half]
        w = tensors[f"base_model.model.model.layers.{layer}.{NAMES[short]}.{part}.weight"].numpy()
        if half == "lora_b" and short in ("attn_q", "attn_k"):
            w = permute(w, 9 if short == "attn_q" else 3)
        got = np.array(t.data).reshape(w.shape)
        assert np.array_equal(got, w if kind == "f32" else w.astype(np.float16)), t.name

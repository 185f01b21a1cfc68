"""Architectures against transformers: a random small model written by transformers, read by us from the directory; logits on the
same (our dequantised) weights.  Needs QL_MODEL_TOOL."""
import json
import os
import subprocess

import numpy as np
import pytest

TOOL = os.environ.get("QL_MODEL_TOOL")
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_MODEL_TOOL is not set")

SMALL = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, vocab_size=320,
             max_position_embeddings=1024, bos_token_id=1, eos_token_id=2)
CASES = {
    "llama-mha-untied": ("Llama", dict(num_key_value_heads=4, tie_word_embeddings=False)),
    "llama-gqa-tied": ("Llama", dict(num_key_value_heads=2, tie_word_embeddings=True, rope_theta=50000.0)),
    "llama-head-dim": ("Llama", dict(num_key_value_heads=1, head_dim=32, tie_word_embeddings=False)),
    "llama-3.1-rope": ("Llama", dict(num_key_value_heads=2, rope_theta=500000.0, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128})),
    "mistral": ("Mistral", dict(num_key_value_heads=2, sliding_window=None)),
    "qwen2-bias": ("Qwen2", dict(num_key_value_heads=2, tie_word_embeddings=True)),
}


@pytest.mark.parametrize("case,sharded", [(c, c == "qwen2-bias") for c in CASES])
def test_logits_equal(case, sharded, tmp_path):
    import torch
    import transformers
    from safetensors.torch import load_file

    family, extra = CASES[case]
    torch.manual_seed(7)
    cfg = getattr(transformers, family + "Config")(**{**SMALL, **extra})
    model = getattr(transformers, family + "ForCausalLM")(cfg)
    for n, p in model.named_parameters():  # norms and biases away from their dull initial values
        if p.dim() == 1:
            p.data += 0.1 * torch.randn_like(p)
    model.save_pretrained(tmp_path / "m", max_shard_size="200KB" if sharded else "1GB")
    run = lambda *a: subprocess.run([TOOL, *map(str, a)], check=True, capture_output=True, text=True, timeout=120)
    run("dequant", tmp_path / "m", tmp_path / "cache", tmp_path / "deq")
    model.load_state_dict(load_file(str(tmp_path / "deq" / "base.safetensors")), strict=False)
    model.tie_weights()
    model.eval()
    rng = np.random.default_rng(3)
    for n in (1, 2, 17, 513):
        ids = [int(x) for x in rng.integers(3, 320, n)]
        (tmp_path / "ids.json").write_text(json.dumps(ids))
        run("logits", tmp_path / "m", tmp_path / "cache", tmp_path / "ids.json", tmp_path / "z")
        with torch.no_grad():
            want = model(torch.tensor([ids])).logits[0].numpy()
        got = np.fromfile(tmp_path / "z", dtype=np.float32).reshape(want.shape)
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_unsupported_maths_is_refused(tmp_path):
    import transformers

    for family, extra, word in (("Qwen3", {"num_key_value_heads": 2}, "queries"), ("Gemma2", {"num_key_value_heads": 2}, "gemma2")):
        cfg = getattr(transformers, family + "Config")(**{**SMALL, **extra})
        getattr(transformers, family + "ForCausalLM")(cfg).save_pretrained(tmp_path / family)
        p = subprocess.run([TOOL, "dequant", str(tmp_path / family), str(tmp_path / "c"), str(tmp_path / "d")], capture_output=True, text=True)
        assert p.returncode == 1 and word in p.stderr, p.stderr

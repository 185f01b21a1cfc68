"""Architectures against transformers: a random small model written by transformers, read by us from the directory; logits on the
same (our dequantised) weights.  Needs QL_MODEL_TOOL."""
import json
import os
import subprocess

import numpy as np
import pytest

import archs

TOOL = os.environ.get("QL_MODEL_TOOL")
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_MODEL_TOOL is not set")


def run(*args):
    return subprocess.run([TOOL, *map(str, args)], check=True, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("case,sharded", [(c, c in ("qwen2-bias", "phi3")) for c in archs.ARCHS])
def test_logits_equal(case, sharded, tmp_path):
    import torch
    from safetensors.torch import load_file

    model = archs.make(case)
    model.save_pretrained(tmp_path / "m", max_shard_size="200KB" if sharded else "1GB")
    run("dequant", tmp_path / "m", tmp_path / "cache", tmp_path / "deq")
    archs.put(model, load_file(str(tmp_path / "deq" / "base.safetensors")))
    rng = np.random.default_rng(3)
    for n in (1, 17, 513):
        ids = [int(x) for x in rng.integers(3, 320, n)]
        (tmp_path / "ids.json").write_text(json.dumps(ids))
        run("logits", tmp_path / "m", tmp_path / "cache", tmp_path / "ids.json", tmp_path / "z")
        with torch.no_grad():
            want = model(torch.tensor([ids])).logits[0].numpy()
        got = np.fromfile(tmp_path / "z", dtype=np.float32).reshape(want.shape)
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("case,more,word", [
    ("llama-gqa-tied", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
    ("llama-gqa-tied", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
    ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}}, "longrope"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
])
def test_unsupported_maths_is_refused(case, more, word, tmp_path):
    archs.make(case, **more).save_pretrained(tmp_path / "m")
    p = subprocess.run([TOOL, "dequant", str(tmp_path / "m"), str(tmp_path / "c"), str(tmp_path / "d")], capture_output=True, text=True)
    assert p.returncode == 1 and word in p.stderr, p.stderr

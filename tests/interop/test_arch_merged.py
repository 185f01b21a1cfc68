"""Merged models of every architecture: a small random model with a trained adapter is merged into an F32 GGUF file; llama.cpp's greedy
tokens from it equal ours, and the file read back by us gives transformers' logits.  Merged into a Hugging Face directory, it gives
transformers our logits.

Needs QL_MODEL_TOOL; the llama.cpp part QL_NODE_MODULES and node."""
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

import archs
from test_arch_train import RECIPE, run, tiny_model

HERE = pathlib.Path(__file__).resolve().parent
NODE = os.environ.get("QL_NODE_MODULES")
pytestmark = pytest.mark.skipif(not os.environ.get("QL_MODEL_TOOL"), reason="QL_MODEL_TOOL is not set")

# what GGUF can express
CASES = {
    "llama-3.1-rope": {}, "qwen2-bias": {}, "qwen3": {}, "phi3-gqa-window": {"sliding_window": None},
    "smollm3": {"num_hidden_layers": 5, "no_rope_layers": None}, "gemma2": {"query_pre_attn_scalar": 32}, "gemma3": {},
}
if not os.environ.get("QL_FULL"):
    del CASES["qwen2-bias"]


@pytest.fixture(scope="module", params=list(CASES))
def merged(request, tmp_path_factory):
    """Directory with the model m, its adapter, and base.gguf and merged.gguf."""
    name, d = request.param, tmp_path_factory.mktemp(request.param)
    archs.make(name, **CASES[name]).save_pretrained(d / "m")
    tiny_model.write_tokenizer(d / "m")
    (d / "data.jsonl").write_bytes(tiny_model.chat_lines(40))
    (d / "recipe.json").write_text(json.dumps({**RECIPE, "max_steps": 8, "learning_rate": 0.01}))
    run("train", d / "m", d / "cache", d / "data.jsonl", d / "recipe.json", d / "run")
    final = d / "run" / json.loads((d / "run" / "steps.json").read_text())["final"]
    run("gguf", d / "m", d / "cache", "f32", d / "merged.gguf", final)
    rng = np.random.default_rng(2)
    prompts = [[int(x) for x in rng.integers(3, 259, n)] for n in (2, 9, 45)]
    (d / "prompts.json").write_text(json.dumps(prompts))
    return name, d, prompts, final


def test_file_read_back_gives_transformers_logits(merged):
    import torch
    from safetensors.torch import load_file

    name, d, prompts, _ = merged
    model = archs.make(name, **CASES[name])
    run("dequant", d / "merged.gguf", d / "cache2", d / "deq")
    state = load_file(str(d / "deq" / "base.safetensors"))
    if name.startswith("gemma"):  # GGUF stores 1 + w
        state = {k: v - 1 if "norm" in k else v for k, v in state.items()}
    archs.put(model, state)
    for ids in prompts:
        (d / "ids.json").write_text(json.dumps(ids))
        run("logits", d / "merged.gguf", d / "cache2", d / "ids.json", d / "z")
        with torch.no_grad():
            want = model(torch.tensor([ids])).logits[0].numpy()
        got = np.fromfile(d / "z", dtype=np.float32).reshape(want.shape)
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_merged_directory_gives_transformers_our_logits(merged):
    import torch
    import transformers

    name, d, prompts, final = merged
    run("hf", d / "m", d / "cache", "f32", d / "hf", final)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(d / "hf", dtype=torch.float32, attn_implementation="eager",
                                                                    output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    for ids in prompts:
        (d / "ids.json").write_text(json.dumps(ids))
        run("logits", d / "m", d / "cache", d / "ids.json", d / "z", final)
        with torch.no_grad():
            want = model.eval()(torch.tensor([ids])).logits[0].numpy()
        got = np.fromfile(d / "z", dtype=np.float32).reshape(want.shape)
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def compare(name, d, prompts, final, file, lora="-", n=24):
    run("generate", d / "m", d / "cache", d / "prompts.json", n, d / "ours.json", final)
    p = subprocess.run(["node", str(HERE / "others_generate.mjs"), str(file), str(lora), str(n), str(d / "theirs.json"), "1"],
                       input=json.dumps(prompts), capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr[-3000:]
    equal = 0
    for ours, theirs in zip(json.loads((d / "ours.json").read_text()), json.loads((d / "theirs.json").read_text())):
        k = next((i for i, (a, b) in enumerate(zip(ours["ids"], theirs)) if a != b), len(theirs))
        equal += k
        # its cache is f16: only where two are as good as equal
        assert k == len(theirs) or ours["margins"][k] < 0.03, (name, k, ours["ids"], theirs, ours["margins"][:k + 1])
    assert equal >= n  # far more than the tokens of one prompt would be equal by chance


needs_llamacpp = pytest.mark.skipif(not NODE or not shutil.which("node"), reason="QL_NODE_MODULES is not set, or no node")


@needs_llamacpp
def test_llamacpp_gives_the_same_tokens(merged):
    name, d, prompts, final = merged
    compare(name, d, prompts, final, d / "merged.gguf")


@needs_llamacpp
def test_llamacpp_puts_the_lora_on_the_base(merged):
    name, d, prompts, final = merged
    if name != "phi3-gqa-window":  # fused modules; the others differ in names only
        pytest.skip("one of each kind is enough")
    run("gguf", d / "m", d / "cache", "f32", d / "base.gguf")
    run("lora", d / "m", d / "cache", "f32", d / "lora.gguf", final)
    compare(name, d, prompts, final, d / "base.gguf", d / "lora.gguf")

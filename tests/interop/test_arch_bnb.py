"""bitsandbytes 4-bit checkpoints written by transformers are bases as they are: the weights we use are the bits bitsandbytes
dequantises, and the logits are transformers'.  And the other way: bitsandbytes dequantises our cache to the bits we train on.
Needs QL_MODEL_TOOL."""
import json
import os

import numpy as np
import pytest

import archs
from test_arch_train import run

pytestmark = pytest.mark.skipif(not os.environ.get("QL_MODEL_TOOL"), reason="QL_MODEL_TOOL is not set")


def state_of(tensors, name):
    """bitsandbytes' own reading of a tensor's keys."""
    from bitsandbytes.functional import QuantState

    parts = {k: v for k, v in tensors.items() if k.startswith(name + ".")}
    return QuantState.from_dict(parts, device="cpu")


def dequantised(tensors, name):
    import torch
    from bitsandbytes.functional import dequantize_4bit

    q = state_of(tensors, name)
    q.dtype = torch.float32
    return dequantize_4bit(tensors[name].view(torch.uint8).reshape(-1, 1), q)


@pytest.mark.parametrize("case,kind,nested,storage", [
    ("qwen3", "nf4", True, "uint8"), ("qwen3", "fp4", False, "uint8"), ("llama-gqa-tied", "nf4", False, "bfloat16"),
    ("phi3-gqa-window", "nf4", True, "uint8"), ("gemma3", "fp4", True, "uint8")])
def test_checkpoint_is_used_as_it_is(case, kind, nested, storage, tmp_path):
    import torch
    import transformers
    from safetensors.torch import load_file

    archs.make(case).save_pretrained(tmp_path / "plain")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested,
                                             bnb_4bit_compute_dtype=torch.float32, bnb_4bit_quant_storage=getattr(torch, storage))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=config, device_map="cpu",
                                                              dtype=torch.float32, attn_implementation="eager").eval()
    model.save_pretrained(tmp_path / "m", max_shard_size="60KB")
    stored = {}
    for f in (tmp_path / "m").glob("*.safetensors"):
        stored |= load_file(str(f))
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1 and any(f"bitsandbytes__{kind}" in k for k in stored)
    run("dequant", tmp_path / "m", tmp_path / "cache", tmp_path / "deq")
    assert not list((tmp_path / "cache").glob("base-*"))  # nothing was quantised
    mine = load_file(str(tmp_path / "deq" / "base.safetensors"))
    mine = mine if set(mine) <= set(stored) else archs.fuse(mine)
    n = 0
    for k, v in mine.items():
        if f"{k}.quant_map" in stored:
            assert torch.equal(v, dequantised(stored, k)), k
            n += 1
    assert n == model.config.num_hidden_layers * (4 if "phi3" in case else 7)
    rng = np.random.default_rng(3)
    for n in (1, 40):
        ids = [int(x) for x in rng.integers(3, 320, n)]
        (tmp_path / "ids.json").write_text(json.dumps(ids))
        run("logits", tmp_path / "m", tmp_path / "cache", tmp_path / "ids.json", tmp_path / "z")
        with torch.no_grad():
            want = model(torch.tensor([ids])).logits[0].numpy()
        got = np.fromfile(tmp_path / "z", dtype=np.float32).reshape(want.shape)
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_bitsandbytes_reads_our_cache(tmp_path):
    import torch
    from safetensors.torch import load_file

    archs.make("qwen3").save_pretrained(tmp_path / "m")
    run("dequant", tmp_path / "m", tmp_path / "cache", tmp_path / "deq")
    mine, (file,) = load_file(str(tmp_path / "deq" / "base.safetensors")), (tmp_path / "cache").glob("base-*.safetensors")
    cache = load_file(str(file))
    names = [k for k in cache if k + ".quant_map" in cache]
    assert len(names) == 7 * archs.SMALL["num_hidden_layers"]
    for k in names:
        assert torch.equal(mine[k], dequantised(cache, k)), k
    q = state_of(cache, names[0])
    assert (q.quant_type, q.blocksize, q.nested, q.state2.blocksize) == ("nf4", 64, True, 256)


@pytest.mark.parametrize("fault,word", [
    ("no absmax", "absmax is missing"), ("no state", "up_proj.weight"), ("short codes", "codes of its shape"), ("nan", "absmax"),
    ("other shape", "shape does not fit"), ("plain linear", "not in 4 bit"), ("8 bit", "8 bit"), ("gptq", "gptq")])
def test_faulty_checkpoints_are_refused(fault, word, tmp_path):
    import subprocess

    import torch
    from bitsandbytes.functional import quantize_4bit
    from safetensors.torch import load_file, save_file

    archs.make("llama-gqa-tied", num_hidden_layers=1).save_pretrained(tmp_path)
    tensors = load_file(str(tmp_path / "model.safetensors"))
    for k in [k for k in tensors if "_proj" in k]:
        codes, q = quantize_4bit(tensors[k], quant_type="nf4")
        tensors[k] = codes
        tensors |= {f"{k}.{n}": t for n, t in q.as_dict(packed=True).items()}
    k = "model.layers.0.mlp.up_proj.weight"
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    if fault == "no absmax":
        del tensors[k + ".absmax"]
    elif fault == "no state":
        del tensors[k + ".quant_state.bitsandbytes__nf4"]
    elif fault == "short codes":
        tensors[k] = tensors[k][:-8].clone()
    elif fault == "nan":
        tensors[k + ".absmax"][3] = float("nan")
    elif fault == "other shape":
        for n in ("", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4"):
            tensors[k + n] = tensors["model.layers.0.mlp.down_proj.weight" + n].clone()
    elif fault == "plain linear":
        for n in [n for n in tensors if n.startswith(k + ".")]:
            del tensors[n]
        tensors[k] = torch.zeros(160, 64)
    elif fault == "8 bit":
        config = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}
    elif fault == "gptq":
        config = {"quant_method": "gptq", "bits": 4}
    save_file(tensors, str(tmp_path / "model.safetensors"))
    c = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**c, "quantization_config": config}))
    p = subprocess.run([os.environ["QL_MODEL_TOOL"], "dequant", str(tmp_path), str(tmp_path / "c"), str(tmp_path / "d")],
                       capture_output=True, text=True)
    assert p.returncode == 1 and word in p.stderr, p.stderr

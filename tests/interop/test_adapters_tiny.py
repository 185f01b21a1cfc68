"""Adapters in and out on a tiny random model: ranks and alphas of their own load in PEFT, merged directories give transformers the
daemon's numbers, adapters made by PEFT and by our GGUF export come back in, hostile archives do not.

Needs QL_QLORAD and QL_MODEL_TOOL (scripts/test sets them).
"""
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import urllib.error

import numpy as np
import pytest

from conftest import Served

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import tiny_model  # noqa: E402

TOOL = os.environ.get("QL_MODEL_TOOL")
pytestmark = pytest.mark.skipif(not TOOL or not os.environ.get("QL_QLORAD"), reason="QL_MODEL_TOOL and QL_QLORAD are not set")
IDS = [5, 77, 130, 201, 33, 90, 91, 92, 150, 8, 8, 249]
LINEARS = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn", "gate_proj": "mlp", "up_proj": "mlp",
           "down_proj": "mlp"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A daemon on the tiny base, and the base's weights: as they were, and as the daemon has them."""
    from safetensors.torch import load_file

    d = tmp_path_factory.mktemp("tiny")
    tiny_model.write(d / "base")
    done = subprocess.run([TOOL, "dequant", str(d / "base"), str(d / "cache"), str(d / "deq")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    s = Served(d / "state", d / "base", "tiny")
    s.dir, s.original, s.dequantised = d / "base", load_file(str(d / "base" / "model.safetensors")), load_file(str(d / "deq" / "base.safetensors"))
    yield s
    assert s.stop() == 0, s.tail()


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_bytes(tiny_model.chat_lines(40))
    job = tiny.train(path, rank=4, alpha=8, use_rslora=True, learning_rate=0.02, max_steps=6, max_seq_length=64,
                     rank_pattern={"layers.1.self_attn.q_proj": 2, "down_proj": 7}, alpha_pattern={"v_proj": 24.5})
    return job["fine_tuned_model"]


def base_model(tiny, weights=None):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(2)
    m = LlamaForCausalLM(LlamaConfig(**{**json.loads((tiny.dir / "config.json").read_text()), "attn_implementation": "eager"}))
    m.load_state_dict(weights or tiny.dequantised, strict=False)
    m.tie_weights()
    return m.eval()


def log_probs(model):
    """Of each token of IDS but the first, given those before it."""
    import torch

    with torch.no_grad():
        z = torch.log_softmax(model(torch.tensor([IDS])).logits[0].double(), -1)
    return np.array([float(z[i - 1, t]) for i, t in enumerate(IDS) if i > 0])


def daemon_log_probs(tiny, name):
    c = tiny.json("/v1/completions", {"model": name, "prompt": IDS, "max_tokens": 0, "echo": True, "logprobs": 0})["choices"][0]
    return np.array(c["logprobs"]["token_logprobs"][1:])


def deltas(directory):
    """scale·B·A of each module of a PEFT directory, from the files alone."""
    import re

    from safetensors.torch import load_file

    cfg = json.loads((directory / "adapter_config.json").read_text())
    t = load_file(str(directory / "adapter_model.safetensors"))
    out = {}
    for name in (n[:-len(".lora_A.weight")] for n in t if n.endswith(".lora_A.weight")):
        a, b = t[name + ".lora_A.weight"].double(), t[name + ".lora_B.weight"].double()
        module = name[len("base_model.model."):]
        alpha = next((v for k, v in cfg["alpha_pattern"].items() if re.match(rf"(.*\.)?({k})$", module)), cfg["lora_alpha"])
        out[module + ".weight"] = alpha / (len(a) ** 0.5 if cfg["use_rslora"] else len(a)) * (b @ a)
    return out


def test_patterns_and_rslora_load_in_peft(tiny, tuned, tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    files = tiny.export(tmp_path / "peft", tuned, "peft")
    shapes = {n: tuple(v.shape) for n, v in load_file(str(files["adapter_model.safetensors"])).items()}
    assert shapes["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"] == (2, 64)
    assert shapes["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] == (4, 64)
    assert shapes["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"] == (64, 7)
    model = PeftModel.from_pretrained(base_model(tiny), str(tmp_path / "peft")).eval()
    assert model.peft_config["default"].use_rslora
    want, plain = log_probs(model), log_probs(base_model(tiny))
    got = daemon_log_probs(tiny, tuned)
    print(f"difference {np.abs(got - want).max():.1e}; the adapter moves log-probabilities by {np.abs(want - plain).max():.2f}")
    assert np.abs(got - want).max() <= 1e-4 and np.abs(want - plain).max() > 0.05


@pytest.mark.parametrize("merge_base", ["dequantized", "original"])
def test_merged_directory_in_transformers(tiny, tuned, tmp_path, merge_base):
    """One rounding to bf16 of W + scale·B·A, bit for bit, and transformers on it tells what the daemon tells."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    tiny.export(tmp_path / "peft", tuned, "peft")
    files = tiny.export(tmp_path / "hf", tuned, "safetensors", merge_base=merge_base)
    report, merged, delta = tiny.verification, load_file(str(files["model.safetensors"])), deltas(tmp_path / "peft")
    base = tiny.dequantised if merge_base == "dequantized" else tiny.original
    assert len(delta) == 14 and set(merged) == set(base)
    exact = {n: (w.double() + delta[n] if n in delta else w.double()).float() for n, w in base.items()}
    for n, w in merged.items():
        assert w.dtype == torch.bfloat16
        assert (w == exact[n].bfloat16()).double().mean() >= 0.9999  # the order of sums may turn a tie
        assert float((w.float() - exact[n]).abs().max()) <= 2.0 ** -8 * float(exact[n].abs().max())
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "hf"), dtype=torch.float32, attn_implementation="eager").eval()
    if merge_base == "dequantized":
        assert report is None
        diff = np.abs(log_probs(model) - daemon_log_probs(tiny, tuned)).max()
        unrounded = np.abs(log_probs(base_model(tiny, exact)) - daemon_log_probs(tiny, tuned)).max()
        print(f"log-probabilities: {diff:.1e} away, {unrounded:.1e} without the rounding")
        assert diff <= 2e-2 and unrounded <= 1e-4
    else:
        a = torch.cat([tiny.original[n].flatten() for n in delta]).double()
        b = torch.cat([tiny.dequantised[n].flatten() for n in delta]).double()
        told = report["base_difference"]
        assert told["tensors"] == 14 and 0.05 < told["relative_rms"] < 0.15
        assert told["relative_rms"] == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-6)
        assert told["max_abs"] == pytest.approx(float((a - b).abs().max()), rel=1e-6)


# ---- in again


def peft_adapter(tiny, out, **settings):
    """An adapter made and saved by PEFT, with B different from zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model = get_peft_model(base_model(tiny), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.normal_(0, 0.05)
    model.save_pretrained(str(out))
    return log_probs(model.eval())


def tar_of(directory, path, fmt=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=fmt) as t:
        t.add(directory, arcname="my-adapter")
    return path


def load(tiny, name, path, filename="adapter.tar", **more):
    file = tiny.upload(path, "user_data", filename)
    return tiny.call("/v1/load_lora_adapter", {"lora_name": name, "lora_path": file, **more}).decode()


def refused(tiny, *args, **more):
    with pytest.raises(AssertionError) as e:
        load(tiny, *args, **more)
    return str(e.value)


def test_peft_adapter_comes_in_serves_trains_and_leaves(tiny, tmp_path):
    from safetensors.torch import load_file

    want = peft_adapter(tiny, tmp_path / "a", r=6, lora_alpha=9, use_rslora=True, target_modules=["q_proj", "up_proj", "down_proj"],
                        rank_pattern={"layers.1.mlp.up_proj": 3}, alpha_pattern={"q_proj": 30})
    assert load(tiny, "foreign", tar_of(tmp_path / "a", tmp_path / "a.tar")) == "Success: LoRA adapter 'foreign' added successfully."
    assert np.abs(daemon_log_probs(tiny, "foreign") - want).max() <= 1e-4
    assert np.abs(want - log_probs(base_model(tiny))).max() > 0.05
    entry = [a for a in tiny.json("/v1/adapters")["data"] if a["id"] == "foreign"]
    assert len(entry) == 1 and entry[0]["source"] == "import" and entry[0]["rank"] == 6
    assert "foreign" in [m["id"] for m in tiny.json("/v1/models")["data"]]
    # a job goes on from it, in its shape
    (tmp_path / "train.jsonl").write_bytes(tiny_model.chat_lines(20))
    job = tiny.json("/v1/fine_tuning/jobs", {"model": "foreign", "training_file": tiny.upload(tmp_path / "train.jsonl"), "qlora": {"max_steps": 1}})
    assert job["qlora"]["rank"] == 6 and job["qlora"]["rank_pattern"] == {"model.layers.1.mlp.up_proj": 3}
    done = tiny.finish("/v1/fine_tuning/jobs/" + job["id"], 60)
    theirs = load_file(str(tmp_path / "a" / "adapter_model.safetensors"))
    end = load_file(str(tiny.state / "adapters" / job["id"] / "adapter_model.safetensors"))
    assert set(end) == set(theirs) and all((end[n] == theirs[n]).all() for n in theirs)  # the one step has rate 0: it is the warm-up
    # out again as GGUF, and in from there
    files = tiny.export(tmp_path / "gguf", "foreign", "gguf_lora", "f32")
    load(tiny, "round-trip", next(iter(files.values())), "adapter.gguf")
    assert np.abs(daemon_log_probs(tiny, "round-trip") - want).max() <= 1e-4
    # replaced, and gone
    other = peft_adapter(tiny, tmp_path / "b", r=4, lora_alpha=4, target_modules="all-linear")
    assert "loaded already" in refused(tiny, "foreign", tar_of(tmp_path / "b", tmp_path / "b.tar"))
    load(tiny, "foreign", tar_of(tmp_path / "b", tmp_path / "b.tar", tarfile.GNU_FORMAT), load_inplace=True)
    assert np.abs(daemon_log_probs(tiny, "foreign") - other).max() <= 1e-4
    for name in ("foreign", "round-trip"):
        assert tiny.call("/v1/unload_lora_adapter", {"lora_name": name}).decode() == f"Success: LoRA adapter '{name}' removed successfully."
    with pytest.raises(AssertionError, match="404"):
        daemon_log_probs(tiny, "foreign")
    assert done["fine_tuned_model"] in [a["id"] for a in tiny.json("/v1/adapters")["data"]]


def entries(path, items):
    with tarfile.open(path, "w") as t:
        for name, data, kind in items:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = "/etc/passwd"
            t.addfile(info, io.BytesIO(data))
    return path


def test_hostile_and_wrong_archives_are_refused(tiny, tmp_path):
    peft_adapter(tiny, tmp_path / "a", r=4, lora_alpha=4, target_modules=["q_proj"])
    config, weights = ((tmp_path / "a" / n).read_bytes() for n in ("adapter_config.json", "adapter_model.safetensors"))
    good = [("adapter_config.json", config, tarfile.REGTYPE), ("adapter_model.safetensors", weights, tarfile.REGTYPE)]
    changed = lambda **k: json.dumps({**json.loads(config), **k}).encode()  # noqa: E731
    before = sorted(p.name for p in (tiny.state / "adapters").iterdir())
    cases = {
        "symlink": [("adapter_config.json", b"", tarfile.SYMTYPE), good[1]],
        "hard link": [good[0], ("adapter_model.safetensors", b"", tarfile.LNKTYPE)],
        "device": good + [("x", b"", tarfile.CHRTYPE)],
        "parent": good + [("../../escape", b"x", tarfile.REGTYPE)],
        "absolute": good + [("/tmp/escape", b"x", tarfile.REGTYPE)],
        "long name": good + [("d/" * 200 + "x", b"x", tarfile.REGTYPE)],
        "twice": good + [("other/adapter_config.json", config, tarfile.REGTYPE)],
        "no config": good[1:],
        "pickle": [good[0], ("adapter_model.bin", b"\x80\x04", tarfile.REGTYPE)],
        "huge config": [("adapter_config.json", b" " * (2 << 20), tarfile.REGTYPE), good[1]],
        "dora": [("adapter_config.json", changed(use_dora=True), tarfile.REGTYPE), good[1]],
        "other rank": [("adapter_config.json", changed(r=8), tarfile.REGTYPE), good[1]],
        "other targets": [("adapter_config.json", changed(target_modules=["k_proj"]), tarfile.REGTYPE), good[1]],
        "lm_head": [("adapter_config.json", changed(target_modules=["lm_head"]), tarfile.REGTYPE), good[1]],
        "cut weights": [good[0], ("adapter_model.safetensors", weights[:-5], tarfile.REGTYPE)],
        "not finite": [good[0], ("adapter_model.safetensors", weights[:-4] + b"\0\0\xc0\x7f", tarfile.REGTYPE)],
        "empty": [],
    }
    for name, items in cases.items():
        text = refused(tiny, "bad", entries(tmp_path / "x.tar", items))
        assert " 400 " in text and "lora_path" in text, (name, text)
    for name, data in {"nothing": b"xyz", "gzip": b"\x1f\x8b" + b"0" * 600, "a model": b"GGUF" + b"\0" * 600, "zeros": b"\0" * 2048}.items():
        (tmp_path / "x.tar").write_bytes(data)
        assert " 400 " in refused(tiny, "bad", tmp_path / "x.tar"), name
    for name in ("tiny", "../x", "a b", "", "ft:x"):
        assert " 400 " in refused(tiny, name, entries(tmp_path / "x.tar", good)), name
    for body in ({"lora_name": "bad", "lora_path": "/etc"}, {"lora_name": "bad", "lora_path": "file-" + "0" * 24}, {"lora_name": "bad"},
                 {"lora_path": "file-" + "0" * 24}):
        with pytest.raises(AssertionError, match=" (400|404) "):
            tiny.call("/v1/load_lora_adapter", body)
    assert sorted(p.name for p in (tiny.state / "adapters").iterdir()) == before  # nothing is left of any of them
    assert "added" in load(tiny, "good", entries(tmp_path / "x.tar", good))
    tiny.call("/v1/unload_lora_adapter", {"lora_name": "good"})

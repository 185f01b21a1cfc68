#!/usr/bin/env python3
"""qlorad's trainer against Hugging Face transformers + PEFT on the same device: the same base, adapter, batches and optimiser.

  tests/gpu_peft.py QLORAD [--arch llama-3.2-1b] [--device cuda] [--steps 20] [--seq 2048] [--dir /dev/shm]

Writes a checkpoint of random bf16 weights of that shape, trains from it with `qlorad bench train --dump`, and repeats the run with PEFT
on our dequantised 4-bit weights in bf16 (fp32 adapter, PEFT's default): our first A and B, our tokens step by step, torch's AdamW.  Tokens are
random, half of them among 16, and no batch comes twice, so what can be learnt are the frequencies, and losses stay large enough for a
relative difference to say something.  Losses must agree within 1 % at every step, and fall.  Prints tokens a second and peak memory of both.  Needs torch, transformers, peft, safetensors.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SHAPES = {  # hidden, inner, layers, heads, kv heads, head size, vocabulary, tied
    "tiny": (64, 192, 2, 4, 2, 16, 320, True),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, 128256, True),
    "llama-3.1-8b": (4096, 14336, 32, 32, 8, 128, 128256, False),
}
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")

ap = argparse.ArgumentParser()
ap.add_argument("qlorad")
ap.add_argument("--arch", choices=SHAPES, default="llama-3.2-1b")
ap.add_argument("--device", default="cuda")
ap.add_argument("--steps", type=int, default=20)
ap.add_argument("--seq", type=int, default=2048)
ap.add_argument("--rank", type=int, default=16)
ap.add_argument("--rate", type=float, help="2e-4; for the tiny shape 1e-2")
ap.add_argument("--dir", default="/dev/shm")
opt = ap.parse_args()
if opt.rate is None:
    opt.rate = 1e-2 if opt.arch == "tiny" else 2e-4
GPU = opt.device.startswith("cuda")
hidden, inner, layers, heads, kv, hd, vocab, tied = SHAPES[opt.arch]
top = pathlib.Path(tempfile.mkdtemp(dir=opt.dir, prefix="qlorad-peft-"))
start = time.time()


def said(text):
    print(f"[{time.time() - start:5.1f} s] {text}", flush=True)


def config():
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": hd, "vocab_size": vocab,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "tie_word_embeddings": tied, "rope_theta": 500000.0,
            "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def checkpoint(d):
    d.mkdir()
    (d / "config.json").write_text(json.dumps(config()))
    g = torch.Generator(opt.device).manual_seed(7)

    def rnd(*shape):
        return (torch.randn(*shape, generator=g, device=opt.device, dtype=torch.float32) * 0.02).to(torch.bfloat16).cpu()

    def layer(i):
        p = f"model.layers.{i}."
        t = {p + "input_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16),
             p + "post_attention_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16)}
        outs = (heads * hd, kv * hd, kv * hd, hidden, inner, inner, hidden)
        ins = (hidden, hidden, hidden, heads * hd, hidden, hidden, inner)
        return t | {f"{p}{n}.weight": rnd(o, i_) for n, o, i_ in zip(LINEARS, outs, ins)}

    shards, where = [], {}
    parts = [{"model.embed_tokens.weight": rnd(vocab, hidden), "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16)}]
    if not tied:
        parts[0]["lm_head.weight"] = rnd(vocab, hidden)
    step = 8
    n = 1 + (layers + step - 1) // step
    for s in range(n):
        t = parts[0] if s == 0 else {k: v for i in range((s - 1) * step, min(s * step, layers)) for k, v in layer(i).items()}
        name = f"model-{s + 1:05d}-of-{n:05d}.safetensors"
        save_file(t, d / name, metadata={"format": "pt"})
        where |= dict.fromkeys(t, name)
        shards.append(name)
    (d / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def ours(base, dump):
    r = subprocess.run([opt.qlorad, "bench", "train", "--base", str(base), "--dump", str(dump), "--device", opt.device, "--seq", str(opt.seq),
                        "--steps", str(opt.steps - 2), "--rank", str(opt.rank), "--learning-rate", str(opt.rate), "--micro-batch", "1",
                        "--dir", opt.dir, "--json"], capture_output=True, text=True)
    if r.returncode != 0:
        raise SystemExit(f"qlorad: {r.stdout[-800:]}{r.stderr[-800:]}")
    return json.loads(r.stdout)


def dequantised(f, key):
    """bf16 weights from the arrays that bitsandbytes' layout names; written from its description, not with our code."""
    state = json.loads(bytes(f.get_tensor(key + ".quant_state.bitsandbytes__nf4").tolist()))
    dev = opt.device
    levels = f.get_tensor(key + ".quant_map").to(dev)
    codes = f.get_tensor(key).to(dev).flatten()
    scale = f.get_tensor(key + ".nested_quant_map").to(dev)[f.get_tensor(key + ".absmax").to(dev).long()]
    outer = f.get_tensor(key + ".nested_absmax").to(dev)
    scale = scale * outer.repeat_interleave(state["nested_blocksize"])[: scale.numel()] + state["nested_offset"]
    v = levels[torch.stack((codes >> 4, codes & 15), 1).long()].flatten()
    v = v * scale.repeat_interleave(state["blocksize"])[: v.numel()]
    return v.reshape(state["shape"]).to(torch.bfloat16)


def peft_model(base, dump):
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import LlamaConfig, LlamaForCausalLM

    c = LlamaConfig(**{k: v for k, v in config().items() if k not in ("architectures", "torch_dtype", "model_type")})
    c._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(opt.device):
        m = LlamaForCausalLM(c)
    torch.set_default_dtype(torch.float32)
    state = dict(m.named_parameters())
    cache = next(dump.glob("base-*.safetensors"))
    with torch.no_grad():
        for shard in base.glob("*.safetensors"):
            with safe_open(shard, "pt") as f:
                for k in f.keys():
                    if not any(x in k for x in LINEARS):
                        state[k].copy_(f.get_tensor(k))
        with safe_open(cache, "pt") as f:
            for k in [k for k in state if any(x in k for x in LINEARS)]:
                state[k].copy_(dequantised(f, k))
    m = get_peft_model(m, LoraConfig(r=opt.rank, lora_alpha=2 * opt.rank, lora_dropout=0.0, task_type="CAUSAL_LM",
                                     target_modules=[n.split(".")[1] for n in LINEARS]))
    got = set_peft_model_state_dict(m, load_file(dump / "initial" / "adapter_model.safetensors"))
    if got.unexpected_keys:
        raise SystemExit(f"adapter keys that PEFT does not know: {got.unexpected_keys[:3]}")
    for n, p in m.named_parameters():
        p.requires_grad = "lora_" in n
        if p.requires_grad and p.dtype != torch.float32:
            raise SystemExit(f"{n} is {p.dtype}")
    return m


def theirs(m, run, dump):
    ids = torch.frombuffer(bytearray((dump / "ids.i32").read_bytes()), dtype=torch.int32).reshape(opt.steps, 1, opt.seq).long().to(opt.device)
    o = run["optimizer"]
    if o["dropout"] != 0:
        raise SystemExit("dropout is on")
    p = [x for x in m.parameters() if x.requires_grad]
    adam = torch.optim.AdamW(p, betas=(o["beta1"], o["beta2"]), eps=o["eps"], weight_decay=o["weight_decay"])
    m.train()
    losses, times = [], []
    for k in range(opt.steps):
        if GPU:
            torch.cuda.synchronize()
        times.append(time.time())
        for g in adam.param_groups:
            g["lr"] = run["learning_rates"][k]
        with torch.autocast(opt.device.split(":")[0], torch.bfloat16, enabled=GPU):
            loss = m(input_ids=ids[k], labels=ids[k], use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p, o["max_grad_norm"])
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
    if GPU:
        torch.cuda.synchronize()
    times.append(time.time())
    gaps = sorted(b - a for a, b in zip(times[2:], times[3:]))
    return losses, opt.seq / gaps[len(gaps) // 2]


try:
    base, dump = top / "base", top / "dump"
    checkpoint(base)
    dump.mkdir()
    said("checkpoint written")
    if GPU:
        torch.cuda.empty_cache()
    out = ours(base, dump)
    run = out["runs"][0]
    said("qlorad has trained")
    model = peft_model(base, dump)
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    their_losses, their_rate = theirs(model, run, dump)
    said("PEFT has trained")
    worst = max(abs(a - b) / b for a, b in zip(run["losses"], their_losses))
    third = max(opt.steps // 3, 1)  # single batches differ by chance
    moved = (sum(run["losses"][:third]) - sum(run["losses"][-third:])) / third
    print("qlorad ", " ".join(f"{x:.4f}" for x in run["losses"]))
    print("PEFT   ", " ".join(f"{x:.4f}" for x in their_losses))
    print(json.dumps({"peft": opt.arch, "device": out["device"], "seq": opt.seq, "steps": opt.steps, "worst_loss_difference": round(worst, 6),
                      "loss_fell_by": round(moved, 4), "qlorad_tokens_per_s": run["tokens_per_s"], "peft_tokens_per_s": round(their_rate, 1),
                      "qlorad_peak_gib": run["peak_gib"], "peft_peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3) if GPU else None,
                      "torch": torch.__version__}))
    good = len(their_losses) == len(run["losses"]) == opt.steps and worst <= 0.01 and moved > (0.02 if opt.arch == "tiny" else 0.05)
    print("ok" if good else "FAIL", f"worst difference {100 * worst:.3f} %, the loss fell by {moved:.3f}")
    sys.exit(0 if good else 1)
finally:
    shutil.rmtree(top, ignore_errors=True)

#!/usr/bin/env python3
"""8-bit AdamW on a GPU against bitsandbytes' own CUDA kernel, and against our CPU: the same parameters and gradients, 100 steps.

  tests/gpu_adam8.py OPTIM_TOOL        (tests/interop/optim_tool of a build with CUDA; needs torch, bitsandbytes, transformers, a GPU)

Asserts: the GPU gives the CPU's parameters and codes (the same bits); bitsandbytes' parameters to 1e-3 of the distance moved (it divides approximately), its codes
for 99 of 100 moments.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import bitsandbytes as bnb
import numpy as np
import torch
from transformers import get_scheduler

TOOL = sys.argv[1]
STEPS, WARMUP, LR, DECAY = 100, 7, 3e-3, 0.1
TENSORS = [8 * 576, 64 * 3, 16 * 512, 4096, 4095, 16 * 14336]

rng = np.random.default_rng(5)
n = sum(TENSORS)
p = rng.normal(0, 0.02, n).astype(np.float32)
g = ((rng.normal(0, 1, (STEPS, n)) + 0.5 * rng.normal(0, 1, n)) * np.exp(rng.normal(-5.5, 0.5, n))).astype(np.float32)
g[10] *= 5  # clipped


def ours(device):
    out = pathlib.Path(tempfile.mkdtemp())
    recipe = {"learning_rate": LR, "optimizer": "adamw_8bit", "weight_decay": DECAY, "max_grad_norm": 1.0, "lr_scheduler": "cosine"}
    (out / "spec.json").write_text(json.dumps({"tensors": TENSORS, "recipe": recipe, "steps": STEPS, "warmup": WARMUP}))
    p.tofile(out / "p.f32")
    g.tofile(out / "g.f32")
    subprocess.run([TOOL, "run", out / "spec.json", out / "p.f32", out / "g.f32", out], check=True, env=dict(os.environ, QL_TEST_DEVICE=device))
    state = np.fromfile(out / "state.bin", np.uint8).reshape(STEPS, -1)[-1]
    return np.fromfile(out / "params.f32", np.float32).reshape(STEPS, -1), {"m": state[:n], "v": state[n:2 * n]}


def theirs():
    cuts = np.cumsum(TENSORS)[:-1]
    params = [torch.nn.Parameter(torch.tensor(x, device="cuda")) for x in np.split(p, cuts)]
    opt = bnb.optim.AdamW8bit(params, lr=LR, weight_decay=DECAY)
    sched = get_scheduler("cosine", opt, num_warmup_steps=WARMUP, num_training_steps=STEPS)
    seen = []
    for k in range(STEPS):
        for x, y in zip(params, np.split(g[k], cuts)):
            x.grad = torch.tensor(y, device="cuda")
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        sched.step()
        seen.append(torch.cat([x.detach() for x in params]).cpu().numpy())
    return np.stack(seen), [(opt.state[x]["state1"].cpu().numpy(), opt.state[x]["state2"].cpu().numpy()) for x in params]


gpu, codes = ours("cuda")
cpu, cpu_codes = ours("cpu")
want, states = theirs()
moved = np.linalg.norm(want[-1] - p)
diff = [float(np.linalg.norm(a - b) / moved) for a, b in zip(gpu, want)]
same, coded, at = {"m": 0, "v": 0}, 0, 0
for size, (m, v) in zip(TENSORS, states):
    assert (m.dtype == np.uint8) == (size >= 4096)
    if size >= 4096:
        same["m"] += int((codes["m"][at:at + size] == m.reshape(-1)).sum())
        same["v"] += int((codes["v"][at:at + size] == v.reshape(-1)).sum())
        coded += size
    at += size
print(f"{torch.cuda.get_device_name()}, bitsandbytes {bnb.__version__}, torch {torch.__version__}")
print(f"GPU and CPU: {'the same bits' if gpu.tobytes() == cpu.tobytes() else 'different by %.1e' % np.abs(gpu - cpu).max()}")
print(f"distance moved {moved:.3f}; bitsandbytes differs by {diff[0]:.1e}, {diff[1]:.1e}, {diff[49]:.1e}, {diff[-1]:.1e} of it after 1, 2, 50, 100 steps")
print("equal codes: m %.5f, v %.5f" % (same["m"] / coded, same["v"] / coded))
assert gpu.tobytes() == cpu.tobytes() and all((codes[k] == cpu_codes[k]).all() for k in "mv")
assert max(diff) <= 1e-3 and min(same.values()) >= 0.99 * coded

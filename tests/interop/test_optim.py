"""The optimiser, the schedules and gradient clipping against torch, bitsandbytes (on the CPU) and transformers over 100 steps.

optim_tool runs our code on the parameters and gradients written here.  Needs QL_OPTIM_TOOL (scripts/test sets it).
"""
import json
import math
import os
import subprocess

import numpy as np
import pytest

TOOL = os.environ.get("QL_OPTIM_TOOL")
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_OPTIM_TOOL is not set")

STEPS, WARMUP, LR = 100, 7, 3e-3
TENSORS = [8 * 576, 64 * 3, 16 * 512, 4096, 4095]  # two stay fp32 in the 8-bit kind


def tool(*args):
    done = subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data():
    """Parameters and gradients like a LoRA's: the sizes differ between elements, and one step is far larger."""
    rng = np.random.default_rng(5)
    n = sum(TENSORS)
    p = rng.normal(0, 0.02, n).astype(np.float32)
    size = np.exp(rng.normal(-5.5, 0.5, n))
    g = (rng.normal(0, 1, (STEPS, n)) + 0.5 * rng.normal(0, 1, n)) * size
    g[10] *= 5  # clipped
    return p, g.astype(np.float32)


def ours(tmp_path, data, optimizer, wd, max_norm, scheduler="cosine"):
    p, g = data
    recipe = {"learning_rate": LR, "optimizer": optimizer, "weight_decay": wd, "max_grad_norm": max_norm, "lr_scheduler": scheduler}
    out = tmp_path / optimizer
    out.mkdir()
    (out / "spec.json").write_text(json.dumps({"tensors": TENSORS, "recipe": recipe, "steps": STEPS, "warmup": WARMUP}))
    p.tofile(out / "p.f32")
    g.tofile(out / "g.f32")
    tool("run", out / "spec.json", out / "p.f32", out / "g.f32", out)
    return out, np.fromfile(out / "params.f32", np.float32).reshape(STEPS, -1), json.loads((out / "steps.json").read_text())


def theirs(data, make, max_norm):
    """The same steps by an optimiser of theirs; parameters after each step, clip norms, learning rates."""
    import torch
    from transformers import get_scheduler

    p, g = data
    cuts = np.cumsum(TENSORS)[:-1]
    params = [torch.nn.Parameter(torch.tensor(x)) for x in np.split(p, cuts)]
    opt = make(params)
    sched = get_scheduler("cosine", opt, num_warmup_steps=WARMUP, num_training_steps=STEPS)
    seen, norms, rates = [], [], []
    for k in range(STEPS):
        for x, y in zip(params, np.split(g[k], cuts)):
            x.grad = torch.tensor(y)
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, max_norm)))
        rates.append(sched.get_last_lr()[0])
        opt.step()
        sched.step()
        seen.append(torch.cat([x.detach() for x in params]).numpy().copy())
    return opt, params, np.stack(seen), norms, rates


def check_norms(log, norms, rates):
    for mine, norm, rate in zip(log, norms, rates):
        assert mine["lr"] == pytest.approx(rate, rel=1e-15, abs=0) or mine["lr"] == rate == 0
        assert abs(mine["grad_norm"] - norm) <= 2e-6 * norm


@pytest.mark.parametrize("wd", [0.0, 0.1])
def test_adamw_is_torch_adamw(tmp_path, data, wd):
    import torch

    _, mine, log = ours(tmp_path, data, "adamw", wd, 1.0)
    _, _, want, norms, rates = theirs(data, lambda ps: torch.optim.AdamW(ps, lr=LR, weight_decay=wd), 1.0)
    check_norms(log, norms, rates)
    assert max(norms) > 1 > min(norms)  # some steps are clipped, others not
    worst = max(float(np.abs(a - b).max()) / (k + 1) for k, (a, b) in enumerate(zip(mine, want)))
    print(f"worst difference {worst / LR:.1e} learning rates a step")
    assert worst <= 1e-6 * LR + 1e-8  # 1e-8: the parameters' own fp32 rounding
    assert np.abs(mine[-1] - data[0]).max() > 10 * LR


def test_8bit_is_bitsandbytes(tmp_path, data):
    bnb = pytest.importorskip("bitsandbytes")

    out, mine, log = ours(tmp_path, data, "adamw_8bit", 0.1, 1.0)
    opt, params, want, norms, rates = theirs(data, lambda ps: bnb.optim.AdamW8bit(ps, lr=LR, weight_decay=0.1), 1.0)
    check_norms(log, norms, rates)
    start = data[0]
    moved = np.linalg.norm(want[-1] - start)
    diff = [float(np.linalg.norm(a - b)) for a, b in zip(mine, want)]
    print(f"moved {moved:.4f}; difference after 1, 50, 100 steps {diff[0]:.1e} {diff[49]:.1e} {diff[-1]:.1e}")
    assert diff[0] <= 1e-6 * moved
    # bitsandbytes' CPU backend looks codes up on a grid of 65,536 steps: it has no moments below 1.6e-5 of a block's largest
    assert diff[1] <= 1e-3 * moved and diff[49] <= 5e-3 * moved and diff[-1] <= 1e-2 * moved
    same, at = {"m": [], "v": []}, 0
    codes = {k: np.fromfile(out / f"{k}.u8", np.uint8) for k in "mv"}
    for x, n in zip(params, TENSORS):
        state = opt.state[x]
        assert (state["state1"].dtype.itemsize == 1) == (n >= 4096)  # the same tensors are kept in 8 bits
        if n >= 4096:
            for k, name in (("m", "state1"), ("v", "state2")):
                d = np.abs(codes[k][at:at + n].astype(int) - state[name].numpy().reshape(-1).astype(int))
                same[k].append((d == 0).mean())
                assert (d <= 2).mean() >= 0.99
        at += n
    print("equal codes:", {k: [f"{x:.4f}" for x in v] for k, v in same.items()})
    assert min(same["m"]) >= 0.95 and min(same["v"]) >= 0.8


def restated_8bit(data, wd):
    """AdamW8bit over bitsandbytes' own maps with an exact nearest-code search, in numpy fp32."""
    from bitsandbytes.functional import create_dynamic_map

    maps = [create_dynamic_map(signed=s).numpy().astype(np.float32) for s in (True, False)]
    mids = [(m[1:] + m[:-1]) / np.float32(2) for m in maps]
    f = np.float32
    p, g = data[0].copy(), data[1]

    def encode(x, i):
        n = -(-x.size // 256) * 256
        blocks = np.zeros(n, f)
        blocks[:x.size] = x
        blocks = blocks.reshape(-1, 256)
        top = np.abs(blocks).max(1)
        c = np.searchsorted(mids[i], blocks * (f(1) / np.maximum(top, f(1e-38)))[:, None], side="left")
        if i == 0:
            c += (blocks > 0) & np.signbit(maps[0][c])
            c -= (blocks < 0) & ~np.signbit(maps[0][c])
        else:
            c += (blocks > 0) & (c == 0)
        return (maps[i][c] * top[:, None]).reshape(-1)[:x.size]

    out, at = [], 0
    moments = [[np.zeros(n, f), np.zeros(n, f)] for n in TENSORS]
    for k in range(STEPS):
        factor = k / WARMUP if k < WARMUP else 0.5 * (1 + math.cos(math.pi * (k - WARMUP) / (STEPS - WARMUP)))
        lr, norm, at = LR * factor, np.sqrt((g[k].astype(np.float64) ** 2).sum()), 0
        coef = f(min(1.0, 1.0 / (norm + 1e-6)))
        for t, n in enumerate(TENSORS):
            x, y = p[at:at + n], g[k][at:at + n] * coef
            m, v = moments[t]
            m = m * f(0.9) + f(1 - 0.9) * y
            v = v * f(0.999) + f(1 - 0.999) * y * y
            step, root = f(-(lr / (1 - 0.9 ** (k + 1)))), f(math.sqrt(1 - 0.999 ** (k + 1)))
            x[:] = x * f(1 - lr * wd) + step * m / (np.sqrt(v) / root + f(1e-8))
            moments[t] = [encode(m, 0), encode(v, 1)] if n >= 4096 else [m, v]
            at += n
        out.append(p.copy())
    return np.stack(out)


def test_8bit_is_its_restatement_to_rounding(tmp_path, data):
    """Here also gradients that are exactly 0, and sizes so different that most of a block rounds to the smallest codes."""
    pytest.importorskip("bitsandbytes")
    rng = np.random.default_rng(6)
    g = data[1] * np.exp(rng.normal(0, 1.5, data[0].size)).astype(np.float32)
    g[:, ::97] = 0
    g[30] *= 100
    data = data[0], g
    _, mine, _ = ours(tmp_path, data, "adamw_8bit", 0.1, 1.0)
    assert np.abs(mine[-1] - data[0]).max() < STEPS * LR * 3  # no parameter jumps
    want = restated_8bit(data, 0.1)
    worst = float(np.abs(mine - want).max())
    print(f"worst difference over {STEPS} steps {worst:.1e}, {(mine == want).mean():.4f} of all values equal")
    assert worst <= 1e-5 * np.abs(want).max()


def test_paged_is_the_same_bits(tmp_path, data):
    for kind in ("adamw", "adamw_8bit"):
        _, a, _ = ours(tmp_path, data, kind, 0.1, 1.0)
        _, b, _ = ours(tmp_path, data, "paged_" + kind, 0.1, 1.0)
        assert a.tobytes() == b.tobytes()


def test_no_clipping_when_off(tmp_path, data):
    import torch

    _, mine, _ = ours(tmp_path, data, "adamw", 0.0, 0)
    _, _, want, _, _ = theirs(data, lambda ps: torch.optim.AdamW(ps, lr=LR, weight_decay=0.0), math.inf)
    assert float(np.abs(mine[-1] - want[-1]).max()) <= STEPS * (1e-6 * LR + 1e-8)


@pytest.mark.parametrize("steps,warmup", [(1, 0), (1, 1), (10, 2), (100, 0), (100, 7), (100, 100), (57, 80), (1000, 30)])
def test_schedules_are_those_of_transformers(steps, warmup):
    import torch
    from transformers import get_scheduler

    cases = [("constant", {}, 0), ("constant_with_warmup", {}, 0), ("linear", {}, 0), ("cosine", {}, 0),
             ("cosine_with_min_lr", {"min_lr_rate": 0.1}, 0.1)]
    for name, extra, ratio in cases:
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        sched = get_scheduler(name, opt, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=extra)
        want = []
        for _ in range(steps + 1):
            want.append(sched.get_last_lr()[0])
            opt.step()
            sched.step()
        got = [float(x) for x in tool("schedule", name.replace("_with_min_lr", ""), steps, warmup, ratio).split()]
        assert got == want, (name, steps, warmup)


def test_warmup_steps_from_the_ratio():
    from transformers import TrainingArguments

    for steps, ratio in ((10, 0.03), (100, 0.03), (101, 0.1), (999, 0.5), (5, 0)):
        args = TrainingArguments.__new__(TrainingArguments)
        args.warmup_steps = ratio  # a share when below 1
        assert int(tool("warmup", steps, ratio)) == TrainingArguments.get_warmup_steps(args, steps) == math.ceil(steps * ratio)

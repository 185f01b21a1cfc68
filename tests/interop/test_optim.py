"""The optimiser, the schedules and gradient clipping against torch, bitsandbytes (on the CPU) and transformers over 100 steps.

optim_tool runs our code on the parameters and gradients written here.  Needs QL_OPTIM_TOOL (scripts/test sets it).
"""
import importlib.util
import json
import math
import os
import subprocess

import numpy as np
import pytest

TOOL = os.environ.get("QL_OPTIM_TOOL")
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_OPTIM_TOOL is not set")

STEPS, WARMUP, LR = 100, 7, 3e-3
TENSORS = [8 * 576, 64 * 3, 16 * 512, 4096, 4095, 5000]  # two stay fp32 in the 8-bit kind; the last ends in a part of a block


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


def ours(tmp_path, data, optimizer, wd, max_norm, scheduler="cosine", warmup=WARMUP, tensors=TENSORS):
    p, g = data
    recipe = {"learning_rate": LR, "optimizer": optimizer, "weight_decay": wd, "max_grad_norm": max_norm, "lr_scheduler": scheduler}
    out = tmp_path / optimizer
    out.mkdir()
    (out / "spec.json").write_text(json.dumps({"tensors": tensors, "recipe": recipe, "steps": len(g), "warmup": warmup}))
    p.tofile(out / "p.f32")
    g.tofile(out / "g.f32")
    tool("run", out / "spec.json", out / "p.f32", out / "g.f32", out)
    return out, np.fromfile(out / "params.f32", np.float32).reshape(len(g), -1), json.loads((out / "steps.json").read_text())


def moments(out, step):
    """Per coded tensor of TENSORS what our 8-bit kind keeps after a step: codes of m and v, absmax of m and v."""
    raw = np.fromfile(out / "state.bin", np.uint8).reshape(STEPS, -1)[step]
    n, blocks = sum(TENSORS), [-(-t // 256) for t in TENSORS]
    codes = [np.split(raw[i * n:(i + 1) * n], np.cumsum(TENSORS)[:-1]) for i in range(2)]
    tops = raw[2 * n:2 * n + 8 * sum(blocks)].view(np.float32).reshape(2, -1)
    tops = [np.split(x, np.cumsum(blocks)[:-1]) for x in tops]
    return [(codes[0][i], codes[1][i], tops[0][i], tops[1][i]) for i, t in enumerate(TENSORS) if t >= 4096]


def theirs(data, make, max_norm, after=None, warmup=WARMUP, tensors=TENSORS):
    """The same steps by an optimiser of theirs; parameters after each step, clip norms, learning rates."""
    import torch
    from transformers import get_scheduler

    torch.set_num_threads(1)
    p, g = data
    cuts = np.cumsum(tensors)[:-1]
    params = [torch.nn.Parameter(torch.tensor(x)) for x in np.split(p, cuts)]
    opt = make(params)
    sched = get_scheduler("cosine", opt, num_warmup_steps=warmup, num_training_steps=len(g))
    seen, norms, rates = [], [], []
    for k in range(len(g)):
        for x, y in zip(params, np.split(g[k], cuts)):
            x.grad = torch.tensor(y)
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, max_norm)))
        rates.append(sched.get_last_lr()[0])
        opt.step()
        sched.step()
        seen.append(torch.cat([x.detach() for x in params]).numpy().copy())
        if after:
            after(k, opt, params)
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


@pytest.fixture
def exact_search(monkeypatch):
    """bitsandbytes' AdamW8bit and its update, as they are, on the CPU, with codes from its device-independent backend: the nearest
    ones.  (Its CPU library looks codes up on a grid of 65,536 steps, so it has none for what is below 1.6e-5 of a block's largest.)"""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes import _ops
    from bitsandbytes.backends.cpu import ops as cpu

    kernels = {}
    with monkeypatch.context() as m:  # a second execution of the module, which only tells us its functions
        m.setattr(_ops, "register_kernel", lambda name, device: lambda f: kernels.setdefault(name, f))
        spec = importlib.util.find_spec("bitsandbytes.backends.default.ops")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    nearest = kernels["bitsandbytes::quantize_blockwise"]

    def quantise(x, code, absmax_out, out, blocksize):
        q, absmax = nearest(x, code, blocksize)
        out.copy_(q)
        absmax_out.copy_(absmax)

    monkeypatch.setattr(cpu, "_quant_blockwise_fp32_direct", quantise)


def adamw8bit(wd):
    import bitsandbytes as bnb

    return lambda params: bnb.optim.AdamW8bit(params, lr=LR, weight_decay=wd)


@pytest.mark.parametrize("wd", [0.0, 0.1])
def test_8bit_is_bitsandbytes(tmp_path, data, exact_search, wd):
    """The parameters after every one of 100 steps; codes and absmax of the moments after every tenth."""
    out, mine, log = ours(tmp_path, data, "adamw_8bit", wd, 1.0)
    worst = {"same m": 1.0, "same v": 1.0, "absmax": 0.0}

    def compare(step, opt, params):
        if step % 10 != 9:
            return
        states = [opt.state[x] for x in params if x.numel() >= 4096]
        for (m, v, m_top, v_top), s in zip(moments(out, step), states, strict=True):
            m_, v_, m_top_, v_top_ = (s[k].numpy().reshape(-1) for k in ("state1", "state2", "absmax1", "absmax2"))
            worst["same m"] = min(worst["same m"], float((m == m_).mean()))
            worst["same v"] = min(worst["same v"], float((v == v_).mean()))
            for a, b in ((m_top, m_top_), (v_top, v_top_)):
                worst["absmax"] = max(worst["absmax"], float((np.abs(a - b) / b).max()))

    opt, params, want, norms, rates = theirs(data, adamw8bit(wd), 1.0, compare)
    check_norms(log, norms, rates)
    for x, n in zip(params, TENSORS):
        assert (opt.state[x]["state1"].dtype.itemsize == 1) == (n >= 4096)  # the same tensors are kept in 8 bits
    moved = np.linalg.norm(want - data[0], axis=1)
    each = np.sort(np.abs(mine - want).astype(np.float64), axis=1)
    diff, bulk = np.linalg.norm(each, axis=1) / np.maximum(moved, 1e-9), np.linalg.norm(each[:, :-5], axis=1) / np.maximum(moved, 1e-9)
    print("difference over distance moved:", " ".join(f"{d:.0e}" for d in diff[1::14]), "without 5 parameters:",
          " ".join(f"{d:.0e}" for d in bulk[1::14]), worst)
    assert moved[0] == 0 and moved[-1] > 100 * moved[1]
    assert (bulk <= 1e-6).all()
    assert (diff <= 1e-4).all()  # where a moment lies on a midpoint, another rounding (torch fuses multiply and add) gives another code
    assert worst["same m"] >= 0.999 and worst["same v"] >= 0.999 and worst["absmax"] <= 1e-6


def test_8bit_does_not_jump(tmp_path, exact_search):
    """The one rule of ours (device.h, adam8).  Element 0 has a ten-thousandth of its block's gradients and then none: its m is still
    known, its v is 0 to bitsandbytes, so that it moves by m / eps.  Element 1's gradient gets smaller by 1,000."""
    import torch

    rng = np.random.default_rng(8)
    p = rng.normal(0, 0.02, 4096).astype(np.float32)
    g = (rng.choice([-1.0, 1.0], (12, 4096)) * rng.uniform(0.5, 1, (12, 4096)) * 1e-2).astype(np.float32)
    g[:, 0] = [1e-6] * 6 + [0] * 6
    g[:, 1] = [1e-6] * 6 + [1e-9] * 6
    data = p, g
    _, mine, _ = ours(tmp_path, data, "adamw_8bit", 0.0, 0, warmup=0, tensors=[4096])
    _, _, theirs_, _, _ = theirs(data, adamw8bit(0.0), math.inf, warmup=0, tensors=[4096])
    _, _, full, _, _ = theirs(data, lambda ps: torch.optim.AdamW(ps, lr=LR, weight_decay=0.0), math.inf, warmup=0, tensors=[4096])
    steps = {k: np.abs(np.diff(np.vstack([p, x]), axis=0)).max(axis=0) / LR for k, x in (("ours", mine), ("theirs", theirs_), ("fp32", full))}
    print({k: (f"{x[0]:.2f}", f"{x[1]:.2f}", f"{x[2:].max():.2f}") for k, x in steps.items()}, "learning rates in one step")
    assert steps["theirs"][:2].min() > 10  # what is avoided
    assert steps["fp32"].max() < 1.5 and steps["ours"].max() < 1.5
    assert np.abs(mine[:, 2:] - theirs_[:, 2:]).max() <= 1e-5 * LR * len(g)  # and nothing else changes


def test_8bit_beside_bitsandbytes_cpu_library(tmp_path, data):
    """Its CPU library, whose grid has no moments below 1.6e-5 of a block's largest."""
    pytest.importorskip("bitsandbytes")

    out, mine, log = ours(tmp_path, data, "adamw_8bit", 0.1, 1.0)
    opt, params, want, norms, rates = theirs(data, adamw8bit(0.1), 1.0)
    check_norms(log, norms, rates)
    moved = np.linalg.norm(want[-1] - data[0])
    diff = [float(np.linalg.norm(a - b)) for a, b in zip(mine, want)]
    print(f"moved {moved:.4f}; difference after 1, 50, 100 steps {diff[0]:.1e} {diff[49]:.1e} {diff[-1]:.1e}")
    assert diff[0] <= 1e-6 * moved
    assert diff[1] <= 1e-3 * moved and diff[49] <= 5e-3 * moved and diff[-1] <= 1e-2 * moved
    same = {"m": [], "v": []}
    for state, s in zip(moments(out, STEPS - 1), (opt.state[x] for x in params if x.numel() >= 4096), strict=True):
        for i, (k, name) in enumerate((("m", "state1"), ("v", "state2"))):
            d = np.abs(state[i].astype(int) - s[name].numpy().reshape(-1).astype(int))
            same[k].append((d == 0).mean())
            assert (d <= 2).mean() >= 0.99
    print("equal codes:", {k: [f"{x:.4f}" for x in v] for k, v in same.items()})
    assert min(same["m"]) >= 0.95 and min(same["v"]) >= 0.8


def restated_8bit(data, wd):
    """AdamW8bit over bitsandbytes' own maps with an exact nearest-code search, in numpy fp32; the parameters after each step, and how
    often our rule was needed (device.h)."""
    from bitsandbytes.functional import create_dynamic_map

    maps = [create_dynamic_map(signed=s).numpy().astype(np.float32) for s in (True, False)]
    mids = [(m[1:] + m[:-1]) / np.float32(2) for m in maps]
    f, kept = np.float32, 0
    p, g = data[0].copy(), data[1]

    def bound(t):
        return 0.1 / 0.001 ** 0.5 * sum((0.81 / 0.999) ** i for i in range(t)) ** 0.5

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
        return (maps[i][c] * top[:, None]).reshape(-1)[:x.size], c.reshape(-1)[:x.size], np.repeat(top, 256)[:x.size]

    out, at = [], 0
    moments = [[np.zeros(n, f), np.zeros(n, f)] for n in TENSORS]
    least = [np.zeros(n, f) for n in TENSORS]  # what v of code 0 counts as where |m| > bound √v
    for k in range(STEPS):
        factor = k / WARMUP if k < WARMUP else 0.5 * (1 + math.cos(math.pi * (k - WARMUP) / (STEPS - WARMUP)))
        lr, norm, at = LR * factor, np.sqrt((g[k].astype(np.float64) ** 2).sum()), 0
        coef = f(min(1.0, 1.0 / (norm + 1e-6)))
        for t, n in enumerate(TENSORS):
            x, y = p[at:at + n], g[k][at:at + n] * coef
            m, v = moments[t]
            m = m * f(0.9) + f(1 - 0.9) * y
            old, v = v, v * f(0.999) + f(1 - 0.999) * y * y
            keep = (least[t] > 0) & (np.abs(m) > f(bound(k + 1)) * np.sqrt(v))
            kept += int(keep.sum())
            v = np.where(keep, least[t], old) * f(0.999) + f(1 - 0.999) * y * y
            step, root = f(-(lr / (1 - 0.9 ** (k + 1)))), f(math.sqrt(1 - 0.999 ** (k + 1)))
            x[:] = x * f(1 - lr * wd) + step * m / (np.sqrt(v) / root + f(1e-8))
            moments[t] = [m, v]
            if n >= 4096:
                (m, _, _), (v, c, top) = encode(m, 0), encode(v, 1)
                moments[t], least[t] = [m, v], np.where(c == 0, maps[1][1] * top, f(0))
            at += n
        out.append(p.copy())
    return np.stack(out), kept


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
    want, kept = restated_8bit(data, 0.1)
    worst = float(np.abs(mine - want).max())
    assert kept > 100
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

"""NF4, FP4 and nested scales against bitsandbytes on its CPU backend.

QL_QUANT_TOOL names the quant_tool built from tests/unit/quant/tool_quant.c.  Codes and absmax are compared bit for bit
where the element count is a multiple of the block (bitsandbytes divides in a short tail block, we multiply by the
reciprocal everywhere; tails are compared to one code).  FP4 is compared by value where bitsandbytes stores another
code for the same number: +0 for -0, and the other neighbour on an exact negative tie.
"""
import os
import subprocess

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = pytest.importorskip("bitsandbytes.functional")

TOOL = os.environ.get("QL_QUANT_TOOL")
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_QUANT_TOOL is not set")

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def raw(t):
    t = t.detach().contiguous()
    return (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()


def ours(tmp, t, dtype, kind, block, nested):
    (tmp / "in").write_bytes(raw(t))
    out = str(tmp / "out")
    subprocess.run([TOOL, "q4", kind, dtype, str(block), str(nested), str(tmp / "in"), out], check=True)
    read = lambda s, d: np.fromfile(out + s, dtype=d)
    r = {"codes": read(".codes", np.uint8), "absmax": read(".absmax", np.float32), "f32": read(".f32", np.float32)}
    for name in ("bf16", "f16"):
        r[name] = read("." + name, np.uint16)
    if nested:
        r["q"] = read(".absmax_q", np.uint8)
        r["nabs"] = read(".nested_absmax", np.float32)
        r["offset"] = read(".offset", np.float32)[0]
    return r


def nibbles(b):
    return np.stack([b >> 4, b & 15], axis=1).reshape(-1)


def tensors():
    """(name, fp32 tensor); every count is a multiple of 256 unless named tail."""
    g = torch.Generator().manual_seed(1)
    n = lambda *s: torch.randn(*s, generator=g)
    yield "normal", n(64, 256)
    yield "small", n(96, 320) * 0.02
    yield "wide", n(3, 4096)
    yield "tall", n(1024, 2) * 5
    yield "one block", n(256)
    yield "cube", n(8, 16, 32)
    yield "uniform", torch.rand(128, 128, generator=g) - 0.5
    yield "positive", torch.rand(64, 128, generator=g)
    yield "negative", -torch.rand(64, 128, generator=g)
    x = n(64, 256)
    x[::3] = 0
    yield "zero blocks", x
    yield "all zero", torch.zeros(4, 256)
    x = n(64, 256)
    x[5, 7] = 1e4
    x[40, 100] = -3e4
    yield "outliers", x
    yield "denormal", n(16, 256) * 1e-39
    yield "denormal mixed", n(16, 256) * torch.logspace(-40, 0, 16).unsqueeze(1)
    yield "huge", n(16, 256) * 1e37
    yield "steps", torch.randint(-4, 5, (64, 256), generator=g).float()
    yield "levels", F.get_4bit_type("nf4", "cpu")[torch.randint(0, 16, (64, 256), generator=g)]
    lv = F.get_4bit_type("nf4", "cpu")
    mid = torch.cat([(lv[:-1] + lv[1:]) / 2, torch.ones(1)])
    yield "ties", mid.repeat(256)
    up = torch.nextafter(mid, torch.tensor(2.0))
    up[-1] = 1
    yield "above ties", up.repeat(256)
    yield "large", n(512, 768)


CASES = [(name, d, kind, b) for name, _ in tensors() for d in DTYPES for kind in ("nf4", "fp4") for b in (64, 128, 256)]


@pytest.mark.parametrize("name,dtype,kind,block", CASES)
def test_codes(tmp_path, name, dtype, kind, block):
    x = dict(tensors())[name].to(DTYPES[dtype])
    if not torch.isfinite(x).all():
        pytest.skip("outside this type's range")
    q, state = F.quantize_4bit(x, blocksize=block, quant_type=kind)
    r = ours(tmp_path, x, dtype, kind, block, 0)
    assert np.array_equal(r["absmax"].view(np.uint32), state.absmax.numpy().view(np.uint32))
    theirs, mine = nibbles(q.numpy().reshape(-1)), nibbles(r["codes"])
    if kind == "nf4":
        assert np.array_equal(theirs, mine)
    else:
        # v as bitsandbytes normalises it, for the two permitted differences
        a = torch.from_numpy(r["absmax"])
        v = (x.float().reshape(-1, block) * (1.0 / a.clamp(min=1e-38)).view(-1, 1)).clamp(-1, 1).reshape(-1).numpy()
        lv = np.sort(np.abs(F.get_4bit_type("fp4", "cpu").numpy()[:8]))
        tie = np.isin(v, -(lv[:-1] + lv[1:]) / np.float32(2))
        same = theirs == mine
        zero = ((theirs == 0) | (theirs == 8)) & ((mine == 0) | (mine == 8))
        assert (same | zero | tie).all()
    if kind == "nf4":
        y = F.dequantize_4bit(q, state)
        for name2, t in DTYPES.items():
            state.dtype = t
            y = F.dequantize_4bit(q, state).reshape(-1)
            want = y.view(torch.int16).numpy().view(np.uint16) if t != torch.float32 else y.numpy().view(np.uint32)
            got = r[name2] if t != torch.float32 else r["f32"].view(np.uint32)
            zero = (want << 1 == 0) & (got << 1 == 0) if t == torch.float32 else (want & 0x7FFF == 0) & (got & 0x7FFF == 0)
            assert ((want == got) | zero).all()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("n", [2, 63, 64, 65, 200, 1001, 4097])
def test_tails(tmp_path, kind, n):
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    q, state = F.quantize_4bit(x, blocksize=64, quant_type=kind)
    r = ours(tmp_path, x, "f32", kind, 64, 0)
    assert np.array_equal(r["absmax"].view(np.uint32), state.absmax.numpy().view(np.uint32))
    order = np.argsort(np.argsort(F.get_4bit_type(kind, "cpu").numpy(), kind="stable"), kind="stable")
    theirs, mine = nibbles(q.numpy().reshape(-1))[:n], nibbles(r["codes"])[:n]
    full = n // 64 * 64
    differ = theirs != mine
    if kind == "nf4":
        assert not differ[:full].any()
        assert (np.abs(order[theirs].astype(int) - order[mine]) <= 1).all()
    else:
        differ &= ~(((theirs | 8) == 8) & ((mine | 8) == 8))
        assert not differ[:full].any()
        assert (np.abs(order[theirs | 0].astype(int) - order[mine]) <= 2).all()
    assert differ.sum() <= 1


@pytest.mark.parametrize("name", [n for n, t in tensors() if t.numel() >= 16384 and n not in ("huge", "denormal mixed")])
def test_nested(tmp_path, name):
    x = dict(tensors())[name]
    q, state = F.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    r = ours(tmp_path, x, "f32", "nf4", 64, 256)
    assert np.array_equal(q.numpy().reshape(-1), r["codes"])
    offset = state.offset.item()
    assert abs(r["offset"] - offset) <= 1e-6 * abs(offset)
    # the midpoint rule, on our own offset, in numpy
    code = state.state2.code.numpy()
    plain = ours(tmp_path, x, "f32", "nf4", 64, 0)["absmax"]
    d = plain - r["offset"]
    pad = np.zeros(-len(d) % 256, np.float32)
    blocks = np.concatenate([d, pad]).reshape(-1, 256)
    top = np.abs(blocks).max(axis=1)
    assert np.array_equal(top.view(np.uint32), r["nabs"].view(np.uint32))
    norm = (blocks * (np.float32(1) / np.maximum(top, np.float32(1e-38)))[:, None]).reshape(-1)[: len(d)]
    mid = (code[:-1] + code[1:]) / np.float32(2)
    assert np.array_equal(np.searchsorted(mid, norm, side="left").astype(np.uint8), r["q"])
    # bitsandbytes' native kernel looks codes up on a grid: few differ, by little
    gap = np.abs(state.absmax.numpy().astype(int) - r["q"])
    if np.ptp(plain) > 0:
        assert (gap <= 2).all() and (gap != 0).mean() <= max(0.01, 4 / len(gap))
    theirs = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    assert np.allclose(theirs.numpy(), r["absmax"], rtol=2e-2, atol=2e-3 * np.abs(d).max())
    rel = np.linalg.norm(theirs.numpy() - r["absmax"]) / max(np.linalg.norm(r["absmax"]), 1e-30)
    assert rel <= 1e-3


def test_maps(tmp_path):
    for signed in (True, False):
        out = tmp_path / "map"
        subprocess.run([TOOL, "map", "signed" if signed else "unsigned", str(out)], check=True)
        assert out.read_bytes() == F.create_dynamic_map(signed).numpy().tobytes()


def test_code_books(tmp_path):
    x = torch.ones(64)
    for kind in ("nf4", "fp4"):
        r = ours(tmp_path, x, "f32", kind, 64, 0)
        want = F.get_4bit_type(kind, "cpu").numpy()
        assert r["f32"][0] == 1.0
        # every level times one absmax: values of a tensor that holds all 16
        lv = torch.from_numpy(want).repeat(4)
        back = ours(tmp_path, lv, "f32", kind, 64, 0)["f32"]
        assert np.array_equal(back, lv.numpy())

"""GGUF block types against the gguf Python package and, where one is installed, ggml itself.

QL_QUANT_TOOL names the quant_tool built from tests/unit/quant/tool_quant.c.  With QL_NODE_MODULES (node-llama-cpp's
libggml-base.so; or QL_GGML_LIB: any build for baseline x86-64, no contraction) all nine quantisers must give ggml's bytes.
"""
import ctypes
import os
import subprocess

import numpy as np
import pytest

import llamacpp

gguf = pytest.importorskip("gguf")
quants = pytest.importorskip("gguf.quants")
T = gguf.GGMLQuantizationType

TOOL = os.environ.get("QL_QUANT_TOOL")
GGML = os.environ.get("QL_GGML_LIB") or llamacpp.ggml_base()
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_QUANT_TOOL is not set")

TYPES = {"q4_0": T.Q4_0, "q4_1": T.Q4_1, "q5_0": T.Q5_0, "q5_1": T.Q5_1, "q8_0": T.Q8_0, "q4_k": T.Q4_K, "q5_k": T.Q5_K,
         "q6_k": T.Q6_K, "iq4_nl": T.IQ4_NL, "f16": T.F16, "bf16": T.BF16}
PY_QUANTISES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16")


def ours_q(tmp, t, x, importance=None):
    x.tofile(tmp / "x")
    args = [TOOL, "blkq", t, str(x.shape[1]), str(tmp / "x"), str(tmp / "q")]
    if importance is not None:
        importance.tofile(tmp / "w")
        args.append(str(tmp / "w"))
    subprocess.run(args, check=True)
    return np.fromfile(tmp / "q", np.uint8)


def ours_d(tmp, t, b, n):
    b.tofile(tmp / "b")
    subprocess.run([TOOL, "blkd", t, str(n), str(tmp / "b"), str(tmp / "y")], check=True)
    return np.fromfile(tmp / "y", np.float32)


def data(kind, rows=64, cols=768, seed=1):
    g = np.random.default_rng([seed, sum(map(ord, kind))])
    x = g.standard_normal((rows, cols)).astype(np.float32)
    if kind == "small":
        x *= np.float32(0.02)
    elif kind == "uniform":
        x = g.random((rows, cols), dtype=np.float32)
    elif kind == "negative":
        x = -np.abs(x) - np.float32(0.5)
    elif kind == "shifted":
        x += np.float32(3)
    elif kind == "outliers":
        x[g.random(x.shape) < 0.01] *= np.float32(60)
    elif kind == "zeros":
        x[:, : cols // 2] = 0
        x[::3] = 0
    elif kind == "steps":
        x = (g.integers(-4, 5, x.shape) * 0.25).astype(np.float32)
    elif kind == "bf16":
        x = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    elif kind == "constant":
        x[:] = g.standard_normal((rows, 1)).astype(np.float32)
    elif kind == "tiny":
        x *= np.float32(1e-5)
    return np.ascontiguousarray(x)


KINDS = ["normal", "small", "uniform", "negative", "shifted", "outliers", "zeros", "steps", "bf16", "constant", "tiny"]


@pytest.mark.parametrize("t", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_dequantise_equal(tmp_path, t, kind):
    x = data(kind)
    b = ours_q(tmp_path, t, x)
    want = quants.dequantize(b.reshape(x.shape[0], -1), TYPES[t]).astype(np.float32).reshape(-1)
    got = ours_d(tmp_path, t, b, x.size)
    assert np.array_equal(want + np.float32(0), got + np.float32(0))  # -0 equals +0


@pytest.mark.parametrize("t", [t for t in TYPES if t not in ("f16", "bf16")])
def test_dequantise_random_bytes(tmp_path, t):
    g = np.random.default_rng(5)
    block, size = gguf.GGML_QUANT_SIZES[TYPES[t]]
    b = g.integers(0, 256, (4000, size), dtype=np.uint8)
    at = [208] if t == "q6_k" else [0, 2] if t in ("q4_1", "q5_1", "q4_k", "q5_k") else [0]
    for a in at:  # finite f16 scales
        b[:, a + 1] &= 0xBB
    want = quants.dequantize(b, TYPES[t]).reshape(-1)
    got = ours_d(tmp_path, t, b.reshape(-1), 4000 * block)
    assert np.array_equal(want + np.float32(0), got + np.float32(0))


@pytest.mark.parametrize("t", PY_QUANTISES)
@pytest.mark.parametrize("kind", KINDS)
def test_quantise_equal(tmp_path, t, kind):
    x = data(kind)
    want = np.ascontiguousarray(quants.quantize(x, TYPES[t])).view(np.uint8).reshape(-1)
    assert np.array_equal(want, ours_q(tmp_path, t, x))


def ggml_q(t, x, importance=None):
    lib = ctypes.CDLL(GGML)
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    block, size = gguf.GGML_QUANT_SIZES[TYPES[t]]
    out = np.zeros(x.size // block * size, np.uint8)
    w = None if importance is None else importance.ctypes.data_as(ctypes.c_void_p)
    n = lib.ggml_quantize_chunk(ctypes.c_int(int(TYPES[t])), x.ctypes.data_as(ctypes.c_void_p),
                                out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(0), ctypes.c_int64(x.shape[0]),
                                ctypes.c_int64(x.shape[1]), w)
    assert n == out.size
    return out


@pytest.mark.skipif(not GGML, reason="no libggml-base.so: QL_NODE_MODULES is not set")
@pytest.mark.parametrize("t", [t for t in TYPES if t not in ("f16", "bf16")])
@pytest.mark.parametrize("kind", KINDS)
def test_quantise_equals_ggml(tmp_path, t, kind):
    x = data(kind, rows=128, cols=1024)
    assert np.array_equal(ggml_q(t, x), ours_q(tmp_path, t, x))


@pytest.mark.skipif(not GGML, reason="no libggml-base.so: QL_NODE_MODULES is not set")
@pytest.mark.parametrize("t", ["q4_k", "q5_k", "q6_k"])
@pytest.mark.parametrize("kind", ["normal", "small", "outliers", "shifted"])
def test_importance_no_worse_than_ggml(tmp_path, t, kind):
    x = data(kind, rows=64, cols=1024)
    v = np.random.default_rng(9).gamma(0.5, 1.0, x.shape[1]).astype(np.float32) + np.float32(1e-3)
    block = x.reshape(-1, 256)
    s2 = (block.astype(np.float64) ** 2).mean(axis=1, keepdims=True)
    w = np.tile(v, x.shape[0]).reshape(-1, 256) * np.sqrt(s2 + block.astype(np.float64) ** 2)

    def error(b):
        return (w * (quants.dequantize(b.reshape(x.shape[0], -1), TYPES[t]).reshape(-1, 256) - block) ** 2).sum()

    with_v, theirs, plain = ours_q(tmp_path, t, x, v), ggml_q(t, x, v), ours_q(tmp_path, t, x)
    print(t, kind, "ours", error(with_v), "ggml", error(theirs), "plain", error(plain))
    assert error(with_v) <= error(plain)
    assert error(with_v) <= error(theirs) * 1.0005

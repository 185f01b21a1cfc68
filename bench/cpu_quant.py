#!/usr/bin/env python3
"""cpu_quant.py - quantising and dequantising on the CPU: ours, bitsandbytes, llama.cpp, and what the memory can do, in turn.

    bench/cpu_quant.py [ROUNDS]

NF4 with nested statistics against bitsandbytes and against the memory, one core and all: reading and writing (memset of a byte that
is not 0: zeros go to memory without data on some processors, their rate is told apart) by the same threads in the same rounds.  Q4_K against ggml's own quantiser (libggml-base of node-llama-cpp, QL_NODE_MODULES), one core, on the
same numbers.  Figures are GB of fp32 per second.  A peer is asked when it is here.
"""
import ctypes
import os
import statistics
import sys
import time

from common import ROOT, THREADS, Worker, machine, note, program, ratio, spread, table

TINY = bool(os.environ.get("QL_BENCH_TINY"))
N = 1 << (20 if TINY else 26)
SMALL = min(N, 1 << 23)  # for what is slow


def bnb_rates():
    """A function (what, threads) -> GB/s, or None."""
    try:
        import bitsandbytes.functional as F
        import torch
    except ImportError:
        return None
    w = torch.randn(SMALL) * 0.02
    q, s = F.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)

    def rate(what, threads):
        torch.set_num_threads(threads)
        t = time.perf_counter()
        if what == "quantize":
            F.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
        else:
            F.dequantize_4bit(q, s)
        return w.numel() * 4 / (time.perf_counter() - t) / 1e9
    return rate


def ggml_rate():
    """A function () -> GB/s of ggml's Q4_K quantiser, or None."""
    sys.path.insert(0, str(ROOT / "tests" / "interop"))
    try:
        import llamacpp
        import numpy as np
    except ImportError:
        return None
    if not llamacpp.ggml_base():
        return None
    lib = ctypes.CDLL(llamacpp.ggml_base())
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    g = np.random.default_rng(1)
    x = sum(g.random(SMALL // 4, dtype=np.float32) - np.float32(0.5) for _ in range(4)) * np.float32(0.02)
    out = np.zeros(x.size // 256 * 144, np.uint8)
    q4_k = 12

    def rate():
        t = time.perf_counter()
        lib.ggml_quantize_chunk(ctypes.c_int(q4_k), x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(0),
                                ctypes.c_int64(x.size // 4096), ctypes.c_int64(4096), None)
        return x.size * 4 / (time.perf_counter() - t) / 1e9
    return rate


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    where = machine()
    us, us_small = (Worker(name, [program("bench/bench_quant"), str(size)]) for name, size in (("qlorad", N), ("qlorad, Q4_K", SMALL // 4)))
    bnb, ggml = bnb_rates(), ggml_rate()
    for name, peer in (("bitsandbytes", bnb), ("ggml", ggml)):
        if peer is None:
            note(f"{name} is not here: without it")
    threads = sorted({1, THREADS})
    out = {}

    def put(key, v, r):
        if r:  # the first round warms up
            out.setdefault(key, []).append(v)

    def ours(worker, line):
        a = worker.ask(line)
        return a["bytes"] / a["seconds"] / 1e9
    for r in range(n + 1):
        for t in threads:
            for what, line in (("quantize", "quantize nf4"), ("dequantize", "dequantize nf4"), ("read", "read"), ("write", "write"), ("zero", "zero")):
                put((what, t), ours(us, f"{line} {t}"), r)
                if bnb and what.endswith("quantize"):
                    put(("bnb " + what, t), bnb(what, t), r)
        put("q4_k", ours(us_small, "quantize q4_k 1"), r)
        if ggml:
            put("ggml", ggml(), r)
    us.close()
    us_small.close()
    rows = []
    for t in threads:
        for what, memory in (("quantize", "read"), ("dequantize", "write")):
            b, v = out.get(("bnb " + what, t)), out[(what, t)]
            rows.append([f"{what}, {t} thread{'s' if t > 1 else ''}", spread(v, 2), spread(b, 2) if b else "—",
                         f"{ratio(v, b):.1f}" if b else "—", f"{memory} {statistics.median(out[(memory, t)]):.1f}",
                         f"{ratio(v, out[(memory, t)]):.2f}"])
    table(f"NF4, block 64, nested statistics, {N * 4 >> 20} MiB of fp32, GB/s of fp32",
          ["work", "qlorad", "bitsandbytes CPU", "ours / theirs", "memory", "ours / memory"], rows,
          f"{n} rounds in turn, median (lowest … highest); {where}.  memset of zeros: "
          + ", ".join(f"{statistics.median(out[('zero', t)]):.1f} with {t} thread{'s' if t > 1 else ''}" for t in threads) + ".")
    g = out.get("ggml")
    table("Q4_K, one thread, GB/s of fp32", ["work", "qlorad", "ggml", "ours / theirs"],
          [["quantize", spread(out["q4_k"], 3), spread(g, 3) if g else "—", f"{ratio(out['q4_k'], g):.2f}" if g else "—"]],
          "The same bytes come out (tests/interop/test_quant_gguf.py).")


if __name__ == "__main__":
    main()

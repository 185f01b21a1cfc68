#!/usr/bin/env python3
"""cpu_quant.py - quantising to NF4 with nested statistics and back: ours, bitsandbytes on the CPU, and the memory, in turn.

    bench/cpu_quant.py [ROUNDS]

Figures are GB of fp32 per second, one core and all.  Reading and copying (memcpy, its bytes counted once) by the same threads in
the same rounds say what the memory allows.  bitsandbytes is asked when this Python has it.
"""
import os
import statistics
import sys
import time

from common import THREADS, Worker, machine, note, program, ratio, spread, table

N = 1 << (20 if os.environ.get("QL_BENCH_TINY") else 26)


def bnb_rates():
    """A function (what, threads) -> GB/s, or None."""
    try:
        import bitsandbytes.functional as F
        import torch
    except ImportError:
        return None
    w = torch.randn(min(N, 1 << 23)) * 0.02  # it is slow
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


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    where = machine()
    us = Worker("qlorad", [program("bench/bench_quant"), str(N)])
    bnb = bnb_rates()
    if bnb is None:
        note("bitsandbytes is not here: without it")
    threads = sorted({1, THREADS})
    out = {}
    for r in range(n + 1):
        for t in threads:
            for what in ("quantize", "dequantize", "read", "copy"):
                a = us.ask(f"{what} {t}")
                v = a["bytes"] / a["seconds"] / 1e9
                b = bnb(what, t) if bnb and what.endswith("quantize") else None
                if r:  # the first round warms up
                    out.setdefault((what, t), []).append(v)
                    if b is not None:
                        out.setdefault(("bnb " + what, t), []).append(b)
    us.close()
    rows = []
    for t in threads:
        for what in ("quantize", "dequantize"):
            b = out.get(("bnb " + what, t))
            v = out[(what, t)]
            rows.append([f"{what}, {t} thread{'s' if t > 1 else ''}", spread(v, 2), spread(b, 2) if b else "—",
                         f"{ratio(v, b):.1f}" if b else "—", f"{statistics.median(out[('read', t)]):.1f}",
                         f"{statistics.median(out[('copy', t)]):.1f}"])
    table(f"NF4, block 64, nested statistics, {N * 4 >> 20} MiB of fp32, GB/s of fp32",
          ["work", "qlorad", "bitsandbytes CPU", "ours / theirs", "memory read", "memcpy"], rows,
          f"{n} rounds in turn, median (lowest … highest); {where}.")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""cpu_decode.py - decoding at batch 1 and prefill of 512 tokens: ours beside llama.cpp and transformers, in turn.

    bench/cpu_decode.py [ROUNDS]

Ours: bench_decode (the engine's own steps; NF4 base).  llama.cpp: Q4_0 and F32 files of the same model that we export (through a
daemon started here), by node-llama-cpp.  transformers: torch fp32.  Also ours with 8 sequences at once.
"""
import os
import subprocess
import sys
import tempfile

from common import (BUILD, ROOT, THREADS, Worker, machine, note, program, ratio, rounds, smol, spread, table)
from served import Daemon


def export(d, quantization, out):
    subprocess.run([program("qlorad"), "export", d.model, "--format", "gguf", "--quantization", quantization, "--out", out],
                   check=True, env=d.env, stdout=subprocess.DEVNULL)
    return max((os.path.join(out, f) for f in os.listdir(out)), key=os.path.getmtime)


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    prefill, decode = (512, 64) if os.environ.get("QL_BENCH_TINY") is None else (64, 8)
    note(machine())
    modules = os.environ.get("QL_NODE_MODULES")
    with tempfile.TemporaryDirectory(prefix="qlorad-bench-") as tmp:
        workers = [Worker("qlorad", [program("bench/bench_decode"), smol(), tmp + "/cache", str(THREADS)])]
        workers.append(Worker("transformers fp32", [sys.executable, str(ROOT / "bench/peer_hf.py"), "infer", smol()]))
        if modules:
            with Daemon(tmp + "/state") as d:
                for q in ("q4_0", "f32"):
                    os.mkdir(f"{tmp}/{q}")
                    f = export(d, q, f"{tmp}/{q}")
                    workers.append(Worker(f"llama.cpp {q.upper()}", ["node", str(ROOT / "bench/peer_llamacpp.mjs"), f, str(THREADS)]))
        else:
            note("QL_NODE_MODULES is not set: without llama.cpp")
        rate = lambda a: a["tokens"] / a["seconds"]
        for w in workers:  # warm up
            w.ask(f"prefill {prefill}")
            w.ask("decode 4 1")
        p = rounds(n, workers, f"prefill {prefill}", rate)
        g = rounds(n, workers, f"decode {decode} 1", rate)
        g8 = rounds(n, workers[:2], f"decode {max(8, decode // 4)} 8", rate)
        peak = {w.name: w.close() for w in workers}
    us = "qlorad"
    table(f"Inference, SmolLM2-135M, {THREADS} threads",
          ["program", f"prefill {prefill}, tok/s", "ours / theirs", "decode, batch 1, tok/s", "ours / theirs", "peak MiB"],
          [[w, spread(p[w]), f"{ratio(p[us], p[w]):.2f}" if w != us else "", spread(g[w], 1),
            f"{ratio(g[us], g[w]):.2f}" if w != us else "", f"{peak[w]:.0f}"] for w in p],
          f"Decode with 8 sequences at once: ours {spread(g8[us], 1)} tok/s, transformers {spread(g8['transformers fp32'], 1)}. "
          f"{n} rounds in turn, median (lowest … highest); {machine()}.")


if __name__ == "__main__":
    main()

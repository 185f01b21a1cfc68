"""common.py - what the drivers in bench/ share: workers that answer lines, rounds in turn, medians and ratios, tables.

A worker is a program that loads once, prints {"ready": true}, then answers each line on stdin with one JSON line.  Rounds take
turns between workers (ours, theirs, ours, theirs, …), so that a machine whose speed moves does it to both; ratios are
medians over rounds of the ratio within a round.  While one works, the others wait for a line and use no CPU.

Environment: QL_SMOL (GGUF of SmolLM2-135M-Instruct; scripts/fetch-model prints it), QL_BUILD (build directory, default build),
QL_NODE_MODULES (directory with node-llama-cpp), QL_THREADS (default 2).  The Python that runs the driver runs the peers: use
one that has torch, transformers, peft, gguf, accelerate, bitsandbytes (tests/interop/requirements*.txt).
"""
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("QL_BUILD", ROOT / "build"))
THREADS = int(os.environ.get("QL_THREADS", "2"))


def smol():
    path = os.environ.get("QL_SMOL") or str(ROOT / ".cache" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    if not os.path.exists(path):
        sys.exit("no model: run scripts/fetch-model, or set QL_SMOL")
    return path


def program(name):
    path = BUILD / name
    if not path.exists():
        sys.exit(f"{path} is not built (ninja -C {BUILD} bench)")
    return str(path)


def note(*words):
    print(*words, file=sys.stderr, flush=True)


class Worker:
    """A program that answers lines.  .ask("prefill 512") gives its JSON answer; .close() its peak memory in MiB."""

    def __init__(self, name, argv, env=None):
        self.name = name
        e = dict(os.environ, OMP_NUM_THREADS=str(THREADS), OPENBLAS_NUM_THREADS=str(THREADS), QL_THREADS=str(THREADS),
                 HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", **(env or {}))
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=e, bufsize=1)
        assert self.answer().get("ready"), name
        note(f"{name}: ready")

    def answer(self):
        for line in self.proc.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"{self.name} ended (status {self.proc.wait()})")

    def ask(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()
        return self.answer()

    def close(self):
        self.proc.stdin.close()
        self.proc.stdout.close()
        _, status, use = os.wait4(self.proc.pid, 0)
        self.proc.returncode = os.waitstatus_to_exitcode(status)
        assert self.proc.returncode == 0, f"{self.name} ended with {self.proc.returncode}"
        return use.ru_maxrss / 1024


def measured(argv, **kw):
    """Runs a program to its end: (peak memory in MiB)."""
    p = subprocess.Popen(argv, **kw)
    _, status, use = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0:
        sys.exit(f"{argv[0]} ended with {p.returncode}")
    return use.ru_maxrss / 1024


def rounds(n, workers, line, rate):
    """{name: [rate per round]}; the workers take turns, and each round begins with another one."""
    out = {w.name: [] for w in workers}
    for i in range(n):
        for w in workers[i % len(workers):] + workers[:i % len(workers)]:
            out[w.name].append(rate(w.ask(line)))
    return out


def ratio(a, b):
    return statistics.median(x / y for x, y in zip(a, b))


def machine():
    cpu = next((x.split(":")[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), platform.machine())
    flags = next((x for x in open("/proc/cpuinfo") if x.startswith("flags")), "")
    simd = "AVX-512" if " avx512f" in flags else "AVX2" if " avx2" in flags else "no AVX2"
    return f"{cpu}, {os.cpu_count()} CPUs ({simd}), {THREADS} threads each; load at the start {os.getloadavg()[0]:.1f}"


def table(title, head, rows, foot=""):
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'|'.join([' --- '] + [' ---: '] * (len(head) - 1))}|")
    for r in rows:
        print(f"| {' | '.join(str(c) for c in r)} |")
    if foot:
        print("\n" + foot)
    sys.stdout.flush()


def spread(v, digits=0):
    """median (lowest … highest)"""
    return f"{statistics.median(v):.{digits}f} ({min(v):.{digits}f} … {max(v):.{digits}f})"

#!/usr/bin/env python3
"""cpu_train.py - training: ours beside transformers + PEFT in torch fp32, on the same batches, in turn.

    bench/cpu_train.py [ROUNDS]

LoRA r 16 on all seven linears, AdamW, SmolLM2-135M.  Ours: model_tool train (the engine's own trainer; NF4 base), a run of
three steps a round, of which the first is left out.  PEFT: two steps a round on the token ids of our steps 2 and 3, padded
where sequences differ.  Tokens are those of the sequences, without padding, for both.  Memory is the peak resident size.
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

from common import ROOT, THREADS, Worker, machine, measured, note, program, ratio, smol, spread, table

RANK = 16


def recipe(batch, length, steps):
    return {"n_epochs": 50, "batch_size": batch, "learning_rate": 2e-4, "rank": RANK, "alpha": 2 * RANK, "seed": 1, "max_steps": steps,
            "warmup_steps": 0, "max_seq_length": length}


def long_texts(path, n):
    """Texts of ordinary words, each longer than any sequence length here, so that every sequence is full."""
    words = (ROOT / "LICENSE").read_text().split()
    rng = random.Random(7)
    with open(path, "w") as f:
        for _ in range(n):
            f.write(json.dumps({"text": " ".join(rng.choices(words, k=900))}) + "\n")


def ours(tmp, data, batch, length, steps=3):
    """[(tokens, seconds) of each step but the first], the steps' sequences, peak MiB."""
    d = pathlib.Path(tempfile.mkdtemp(dir=tmp))
    (d / "recipe.json").write_text(json.dumps(recipe(batch, length, steps)))
    peak = measured([program("tests/interop/model_tool"), "train", smol(), f"{tmp}/cache", os.path.basename(data), str(d / "recipe.json"),
                     str(d / "run")], cwd=os.path.dirname(data), env=dict(os.environ, QL_NO_GRADS="1", QL_THREADS=str(THREADS),
                                                                        OPENBLAS_NUM_THREADS=str(THREADS)), stderr=subprocess.DEVNULL)
    info = json.loads((d / "run" / "steps.json").read_text())
    return [(m["tokens"], m["seconds"]) for m in info["metrics"]][1:], info["steps"], peak


def case(tmp, name, data, batch, length, n):
    mine, theirs, peak = [], [], 0.0
    peer = Worker("transformers + PEFT fp32", [sys.executable, str(ROOT / "bench/peer_hf.py"), "train", smol(), str(RANK)])
    for r in range(n + 1):
        steps, seqs, mib = ours(tmp, data, batch, length)
        peak = max(peak, mib)
        answers = []
        for i, s in enumerate(seqs[1:]):
            path = pathlib.Path(tmp) / f"step-{i}.json"
            path.write_text(json.dumps(s))
            answers.append(peer.ask(f"step {path}"))
        a = sum(t for t, _ in steps) / sum(s for _, s in steps)
        b = sum(x["tokens"] for x in answers) / sum(x["seconds"] for x in answers)
        note(f"{name}, round {r}: ours {a:.1f} tok/s, PEFT {b:.1f} tok/s" + ("" if r else " (warm-up, not counted)"))
        if r:
            mine.append(a)
            theirs.append(b)
    peer_peak = peer.close()
    return [name, spread(mine), spread(theirs), f"{ratio(mine, theirs):.2f}", f"{peak:.0f}", f"{peer_peak:.0f}", f"{peak / peer_peak:.2f}"]


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    tiny = os.environ.get("QL_BENCH_TINY") is not None
    where = machine()
    with tempfile.TemporaryDirectory(prefix="qlorad-bench-") as tmp:
        full = tmp + "/full.jsonl"
        long_texts(full, 40)
        chat = str(ROOT / "examples" / "pirate.jsonl")
        cases = [("2 × 64 full", full, 2, 64)] if tiny else [
            ("8 × 256 full", full, 8, 256), ("4 × 512 full", full, 4, 512), ("8 chats of 45–90 tokens", chat, 8, 512)]
        rows = [case(tmp, *c, n) for c in cases]
    table(f"Training, SmolLM2-135M, LoRA r {RANK} on all linears, {THREADS} threads",
          ["batch", "qlorad, tok/s", "transformers + PEFT fp32, tok/s", "ours / theirs", "qlorad, MiB", "PEFT, MiB", "memory ratio"], rows,
          f"{n} rounds in turn, median (lowest … highest); {where}.")


if __name__ == "__main__":
    main()

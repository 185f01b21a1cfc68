#!/usr/bin/env python3
"""peer_hf.py - transformers (+ PEFT) in torch on the CPU as a worker of common.py: loads SmolLM2 from the GGUF, fp32.

    peer_hf.py infer MODEL.gguf         lines: prefill N | decode N ROWS
    peer_hf.py train MODEL.gguf RANK    lines: step FILE.json (one optimiser step: [{"ids", "labels"}], padded to the longest)
"""
import json
import os
import pathlib
import sys
import time

import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(int(os.environ.get("QL_THREADS", "2")))
torch.manual_seed(0)


def say(**kw):
    print(json.dumps(kw), flush=True)


def load(path):
    p = pathlib.Path(path)
    return AutoModelForCausalLM.from_pretrained(str(p.parent), gguf_file=p.name, dtype=torch.float32)


def infer(path):
    m = load(path).eval()
    say(ready=True)
    with torch.no_grad():
        for line in sys.stdin:
            what, *n = line.split()
            n = [int(x) for x in n]
            if what == "prefill":
                ids = torch.randint(3, 49000, (1, n[0]))
                t = time.perf_counter()
                m(ids, use_cache=True, logits_to_keep=1)
                tokens = n[0]
            else:
                rows = n[1] if len(n) > 1 else 1
                o = m(torch.randint(3, 49000, (rows, 16)), use_cache=True)
                tokens = n[0] * rows
                t = time.perf_counter()
                for _ in range(n[0]):
                    o = m(o.logits[:, -1:].argmax(-1), past_key_values=o.past_key_values, use_cache=True)
            say(seconds=time.perf_counter() - t, tokens=tokens)


def train(path, rank):
    import peft

    m = load(path)
    m = peft.get_peft_model(m, peft.LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM", target_modules=[
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
    m.train()
    params = [p for p in m.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=2e-4)
    say(ready=True)
    for line in sys.stdin:
        seqs = json.loads(pathlib.Path(line.split(None, 1)[1].strip()).read_text())
        n = max(len(s["ids"]) for s in seqs)
        ids = torch.zeros(len(seqs), n, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, s in enumerate(seqs):
            k = len(s["ids"])
            ids[i, :k], mask[i, :k], labels[i, :k] = torch.tensor(s["ids"]), 1, torch.tensor(s["labels"])
        full = bool(mask.all())
        t = time.perf_counter()
        loss = m(input_ids=ids, attention_mask=None if full else mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        say(seconds=time.perf_counter() - t, tokens=int(mask.sum()), loss=float(loss.detach()))


if __name__ == "__main__":
    if sys.argv[1] == "infer":
        infer(sys.argv[2])
    else:
        train(sys.argv[2], int(sys.argv[3]))

"""Training and generation of every architecture against transformers + PEFT, on small random models (archs.py).

model_tool trains 20 steps; PEFT starts from the same step-0 adapter on the same (our dequantised) weights and sees the same tokens:
loss and all gradients of the first step, 20 losses, logits under the final adapter, 64 greedy tokens of base and adapter by cached
decoding.  Needs QL_MODEL_TOOL.
"""
import importlib.util
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

import archs
from test_train_peft import step_loss

TOOL = os.environ.get("QL_MODEL_TOOL")
ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_MODEL_TOOL is not set")
_spec = importlib.util.spec_from_file_location("tiny_model", ROOT / "tests" / "integration" / "tiny_model.py")
tiny_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_model)

STEPS = 20
RECIPE = {"n_epochs": 10, "batch_size": 4, "learning_rate": 2e-3, "rank": 4, "alpha": 8, "seed": 3, "max_steps": STEPS,
          "lr_scheduler": "cosine", "warmup_steps": 2, "weight_decay": 0.01, "max_grad_norm": 1.0, "max_seq_length": 256}


def run(*args):
    done = subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


class Case:
    def __init__(self, name, d):
        self.name, self.dir = name, d
        model = archs.make(name)
        model.save_pretrained(d / "m")
        tiny_model.write_tokenizer(d / "m")
        (d / "data.jsonl").write_bytes(tiny_model.chat_lines(40))
        (d / "recipe.json").write_text(json.dumps(RECIPE))
        run("train", d / "m", d / "cache", d / "data.jsonl", d / "recipe.json", d / "run")
        run("dequant", d / "m", d / "cache", d / "deq")
        self.info = json.loads((d / "run" / "steps.json").read_text())
        self.final = d / "run" / self.info["final"]

    def base(self):
        from safetensors.torch import load_file

        model = archs.make(self.name)
        archs.put(model, load_file(str(self.dir / "deq" / "base.safetensors")))
        return model


@pytest.fixture(scope="module", params=list(archs.ARCHS))
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def blocks(model, name, p):
    """Where a B on a fused weight has the blocks of our separate pairs: 1, elsewhere 0; None for plain modules."""
    import torch

    c = model.config
    parts = {"qkv_proj": [c.num_attention_heads, c.num_key_value_heads, c.num_key_value_heads], "gate_up_proj": [1, 1]}
    for module, sizes in parts.items():
        if f".{module}.lora_B" in name:
            unit, r = p.shape[0] // sum(sizes), p.shape[1] // len(sizes)
            return torch.block_diag(*[torch.ones(n * unit, r) for n in sizes])
    return None


def test_losses_and_gradients(case):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import get_cosine_schedule_with_warmup

    torch.set_num_threads(1)  # tiny products
    model = PeftModel.from_pretrained(case.base(), str(case.dir / "run" / "step-0"), is_trainable=True).train()
    named = {n.replace(".default.weight", ".weight"): p for n, p in model.named_parameters() if p.requires_grad}
    for n, p in named.items():
        mask = blocks(model, n, p)
        if mask is not None:
            p.register_hook(lambda g, mask=mask: g * mask)
    params = list(named.values())
    opt = torch.optim.AdamW(params, lr=RECIPE["learning_rate"], weight_decay=RECIPE["weight_decay"])
    sched = get_cosine_schedule_with_warmup(opt, RECIPE["warmup_steps"], STEPS)
    theirs = []
    for i, step in enumerate(case.info["steps"]):
        loss = step_loss(model, step)
        loss.backward()
        if i == 0:
            grads = load_file(str(case.dir / "run" / "grads" / "adapter_model.safetensors"))
            assert set(grads) == set(named)
            moved = [n for n, p in named.items() if float(p.grad.norm()) > 0]
            assert len(moved) == len(named) // 2 and all("lora_B" in n for n in moved)  # B is zero, so A's gradients are
            worst = max(float((grads[n] - named[n].grad).norm() / named[n].grad.norm()) for n in moved)
            assert worst <= 1e-4
        norm = torch.nn.utils.clip_grad_norm_(params, RECIPE["max_grad_norm"])
        assert abs(float(norm) - case.info["metrics"][i]["grad_norm"]) <= 1e-3 * float(norm)
        opt.step()
        sched.step()
        opt.zero_grad()
        theirs.append(float(loss.detach()))
    mine = [m["loss"] for m in case.info["metrics"]]
    diff = [abs(a - b) / b for a, b in zip(mine, theirs)]
    print(f"{case.name}: worst gradient {worst:.1e}, losses", " ".join(f"{d:.0e}" for d in diff))
    assert len(mine) == STEPS and max(diff) <= 1e-4
    assert theirs[-1] < theirs[0] - 0.01  # it moved
    final = load_file(str(case.final / "adapter_model.safetensors"))
    a, b = (torch.cat([d[n].detach().flatten() for n in sorted(named)]) for d in (final, named))
    assert float((a - b).norm() / b.norm()) <= 2e-3


def test_adapter_logits_and_greedy_tokens(case):
    import torch
    from peft import PeftModel

    d = case.dir
    rng = np.random.default_rng(5)
    prompts = [[int(x) for x in rng.integers(3, 259, n)] for n in (1, 7, 40)]
    (d / "prompts.json").write_text(json.dumps(prompts))
    for adapter in (None, case.final):
        model = case.base() if adapter is None else PeftModel.from_pretrained(case.base(), str(adapter)).eval()
        extra = [adapter] if adapter else []
        run("logits", d / "m", d / "cache", d / "prompts.json", d / "z", *extra)
        got = np.fromfile(d / "z", dtype=np.float32).reshape(sum(map(len, prompts)), -1)
        for p, z in zip(prompts, np.split(got, np.cumsum([len(p) for p in prompts])[:-1])):
            with torch.no_grad():
                want = model(torch.tensor([p])).logits[0].numpy()
            assert np.abs(z - want).max() <= 1e-4 * np.abs(want).max()
        run("generate", d / "m", d / "cache", d / "prompts.json", 64, d / "out.json", *extra)
        for p, mine in zip(prompts, json.loads((d / "out.json").read_text())):
            with torch.no_grad():
                z = model(torch.tensor([p + mine["ids"]])).logits[0, len(p) - 1:-1]
            for k, (i, margin) in enumerate(zip(mine["ids"], mine["margins"])):
                if int(z[k].argmax()) != i:  # only where two are as good as equal
                    assert margin <= 1e-3 and float(z[k].max() - z[k, i]) <= 1e-3, (case.name, k, margin)

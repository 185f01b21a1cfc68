"""Training settings against PEFT, torch and bitsandbytes: 20 steps on a small random llama with LoRA+, rsLoRA, ranks and alphas by
pattern, chosen modules, other schedules, clipping and weight decay, 8-bit moments.  The batches and the first adapter are
model_tool's; every loss, every gradient norm and the final adapter are compared.  Needs QL_MODEL_TOOL.
"""
import json
import os
import subprocess

import pytest

import archs
from test_arch_train import TOOL, tiny_model
from test_train_peft import step_loss

pytestmark = pytest.mark.skipif(not TOOL, reason="QL_MODEL_TOOL is not set")
STEPS = 20
BASE = {"n_epochs": 10, "batch_size": 4, "learning_rate": 2e-3, "rank": 4, "alpha": 8, "seed": 3, "max_steps": STEPS, "max_seq_length": 256,
        "lr_scheduler": "constant", "max_grad_norm": 0}
CASES = {
    "LoRA+ with decay": ({"loraplus_ratio": 8, "weight_decay": 0.1, "learning_rate": 5e-4}, 1e-4),
    "rsLoRA, patterns, chosen modules": ({"use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"],
                                          "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 7}, "alpha_pattern": {"v_proj": 3.5}}, 1e-4),
    "linear, warm-up, clipped": ({"lr_scheduler": "linear", "warmup_steps": 5, "max_grad_norm": 0.05, "adam_beta1": 0.8, "adam_beta2": 0.95}, 1e-4),
    "8-bit moments": ({"optimizer": "adamw_8bit", "rank": 128, "alpha": 64, "weight_decay": 0.01, "learning_rate": 5e-4, "lr_scheduler": "cosine"}, 1e-3),
}


def optimizer(model, r):
    import torch

    how = {"lr": r["learning_rate"], "betas": (r.get("adam_beta1", 0.9), r.get("adam_beta2", 0.999)), "eps": 1e-8}
    if "loraplus_ratio" in r:
        from peft.optimizers import create_loraplus_optimizer

        return create_loraplus_optimizer(model, torch.optim.AdamW, loraplus_lr_ratio=r["loraplus_ratio"], weight_decay=r["weight_decay"],
                                         loraplus_weight_decay=r["weight_decay"], **how)
    params = [p for p in model.parameters() if p.requires_grad]
    if r.get("optimizer") == "adamw_8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(params, weight_decay=r["weight_decay"], **how)
    return torch.optim.AdamW(params, weight_decay=r.get("weight_decay", 0.0), **how)


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps(tmp_path, name):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import get_scheduler

    torch.set_num_threads(1)
    settings, bound = CASES[name]
    recipe = {**BASE, **settings}
    model = archs.make("llama-gqa-tied")
    model.save_pretrained(tmp_path / "m")
    tiny_model.write_tokenizer(tmp_path / "m")
    (tmp_path / "data.jsonl").write_bytes(tiny_model.chat_lines(40))
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    for args in (["train", tmp_path / "m", tmp_path / "cache", tmp_path / "data.jsonl", tmp_path / "recipe.json", tmp_path / "run"],
                 ["dequant", tmp_path / "m", tmp_path / "cache", tmp_path / "deq"]):
        done = subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True, timeout=300, env={**os.environ, "QL_NO_GRADS": "1"})
        assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "run" / "steps.json").read_text())
    archs.put(model, load_file(str(tmp_path / "deq" / "base.safetensors")))
    model = PeftModel.from_pretrained(model, str(tmp_path / "run" / "step-0"), is_trainable=True).train()
    named = {n.replace(".default.weight", ".weight"): p for n, p in model.named_parameters() if p.requires_grad}
    if "target_modules" in settings:
        assert len(named) == 2 * 3 * model.config.num_hidden_layers
    opt = optimizer(model, recipe)
    sched = get_scheduler(recipe["lr_scheduler"], opt, num_warmup_steps=recipe.get("warmup_steps", 1 if recipe["lr_scheduler"] == "cosine" else 0),
                          num_training_steps=STEPS)
    theirs, norms, clipped = [], [], 0
    for step in info["steps"]:
        loss = step_loss(model, step)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), recipe["max_grad_norm"] or float("inf"))))
        clipped += 0 < recipe["max_grad_norm"] < norms[-1]
        opt.step()
        sched.step()
        opt.zero_grad()
        theirs.append(float(loss.detach()))
    mine = info["metrics"]
    diff = [abs(m["loss"] - t) / t for m, t in zip(mine, theirs)]
    off = [abs(m["grad_norm"] - n) / n for m, n in zip(mine, norms)]
    final = load_file(str(tmp_path / "run" / info["final"] / "adapter_model.safetensors"))
    a, b = (torch.cat([d[n].detach().flatten() for n in sorted(named)]) for d in (final, named))
    print(f"{name}: losses {max(diff):.1e}, norms {max(off):.1e}, adapter {float((a - b).norm() / b.norm()):.1e}; "
          f"{theirs[0]:.4f} -> {theirs[-1]:.4f}, {clipped} steps clipped")
    assert len(mine) == STEPS and max(diff) <= bound and max(off) <= 20 * bound
    assert float((a - b).norm() / b.norm()) <= 20 * bound
    assert theirs[-1] < theirs[0] - 0.005  # it moved
    assert (clipped > 0) == (recipe["max_grad_norm"] > 0)

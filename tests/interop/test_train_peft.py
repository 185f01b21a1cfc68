"""Training against transformers + PEFT in torch fp32, on SmolLM2 as we quantise it.

model_tool gives the dequantised weights, the batches, our losses, the gradients of step 1 and the adapters of step 0 and of
the end; PEFT starts from the same step-0 adapter, sees the same tokens, and must tell the same numbers.
Needs QL_MODEL_TOOL and QL_SMOL (scripts/test sets them).
"""
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

TOOL, SMOL = os.environ.get("QL_MODEL_TOOL"), os.environ.get("QL_SMOL")
ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not TOOL or not SMOL, reason="QL_MODEL_TOOL and QL_SMOL are not set")

STEPS = 20
RECIPE = {
    "n_epochs": 3, "batch_size": 4, "learning_rate": 2e-4, "rank": 8, "alpha": 16, "seed": 3, "max_steps": STEPS,
    "lr_scheduler": "cosine", "warmup_steps": 0, "weight_decay": 0.01, "max_grad_norm": 1.0, "max_seq_length": 256,
}


def run(*args):
    done = subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    d = tmp_path_factory.mktemp("peft")
    (d / "recipe.json").write_text(json.dumps(RECIPE))
    run("train", SMOL, d / "cache", ROOT / "examples" / "pirate.jsonl", d / "recipe.json", d / "run")
    run("dequant", SMOL, d / "cache", d / "base")
    return d


@pytest.fixture
def base(ours):  # a fresh one for each test: PEFT changes the model it is put on
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(int(os.environ.get("QL_TORCH_THREADS", 2)))
    cfg = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                      num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, rope_theta=100000.0,
                      rms_norm_eps=1e-5, tie_word_embeddings=True, attn_implementation="eager")
    with torch.no_grad():
        m = LlamaForCausalLM(cfg)
    missing = m.load_state_dict(load_file(str(ours / "base" / "base.safetensors")), strict=False)
    assert missing.missing_keys == ["lm_head.weight"] and not missing.unexpected_keys
    m.tie_weights()
    return m


def batch(step):
    """Padded ids, mask and labels of one optimiser step."""
    import torch

    n = max(len(s["ids"]) for s in step)
    ids = torch.zeros(len(step), n, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, s in enumerate(step):
        k = len(s["ids"])
        ids[i, :k], mask[i, :k], labels[i, :k] = torch.tensor(s["ids"]), 1, torch.tensor(s["labels"])
    return ids, mask, labels


def step_loss(model, step):
    """Sum of NLL over all targets of the step divided by their number."""
    import torch

    ids, mask, labels = batch(step)
    z = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    y = labels[:, 1:]
    return torch.nn.functional.cross_entropy(z[y != -100].float(), y[y != -100], reduction="sum") / (y != -100).sum()


def test_losses_gradients_and_final_adapter(ours, base):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import get_cosine_schedule_with_warmup

    info = json.loads((ours / "run" / "steps.json").read_text())
    model = PeftModel.from_pretrained(base, str(ours / "run" / "step-0"), is_trainable=True)
    params = [p for p in model.parameters() if p.requires_grad]
    named = {n.replace(".default.weight", ".weight"): p for n, p in model.named_parameters() if p.requires_grad}
    assert len(named) == 2 * 7 * 30
    opt = torch.optim.AdamW(params, lr=RECIPE["learning_rate"], weight_decay=RECIPE["weight_decay"])
    sched = get_cosine_schedule_with_warmup(opt, 0, STEPS)
    theirs = []
    for i, step in enumerate(info["steps"]):
        loss = step_loss(model, step)
        loss.backward()
        if i == 0:
            grads = load_file(str(ours / "run" / "grads" / "adapter_model.safetensors"))
            assert set(grads) == set(named)
            worst = max(float((grads[n] - p.grad).norm() / p.grad.norm()) for n, p in named.items() if float(p.grad.norm()) > 0)
            zero = [n for n, p in named.items() if float(p.grad.norm()) == 0]
            print(f"worst gradient difference {worst:.2e} over {len(named) - len(zero)} matrices, {len(zero)} are zero in both")
            assert worst <= 1e-3
            assert all(float(grads[n].abs().max()) == 0 for n in zero)  # A's, while B is zero
        norm = torch.nn.utils.clip_grad_norm_(params, RECIPE["max_grad_norm"])
        assert abs(float(norm) - info["metrics"][i]["grad_norm"]) <= 1e-3 * float(norm) * (1 if i == 0 else 20)
        opt.step()
        sched.step()
        opt.zero_grad()
        theirs.append(float(loss))
    mine = [m["loss"] for m in info["metrics"]]
    diff = [abs(a - b) / b for a, b in zip(mine, theirs)]
    print("loss differences:", " ".join(f"{d:.1e}" for d in diff))
    assert len(mine) == STEPS and diff[0] <= 1e-4 and max(diff) <= 1e-3
    assert theirs[-1] < 0.8 * theirs[0]  # it moved at all
    final = load_file(str(ours / "run" / info["final"] / "adapter_model.safetensors"))
    a = torch.cat([final[n].flatten() for n in sorted(named)])
    b = torch.cat([named[n].detach().flatten() for n in sorted(named)])
    assert float((a - b).norm() / b.norm()) <= 1e-3


def test_adapter_directory_gives_equal_logits(ours, base, tmp_path):
    import torch
    from peft import PeftModel

    final = ours / "run" / json.loads((ours / "run" / "steps.json").read_text())["final"]
    model = PeftModel.from_pretrained(base, str(final)).eval()
    rng = np.random.default_rng(1)
    for n in (1, 2, 17, 200):
        ids = [int(x) for x in rng.integers(3, 49000, n)]
        (tmp_path / "ids.json").write_text(json.dumps(ids))
        run("logits", SMOL, ours / "cache", tmp_path / "ids.json", tmp_path / "z.f32", final)
        with torch.no_grad():
            want = model(torch.tensor([ids])).logits[0].numpy()
        got = np.fromfile(tmp_path / "z.f32", dtype=np.float32).reshape(want.shape)
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()

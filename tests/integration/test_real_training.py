"""What training promises, seen from outside on a tiny model: the loss and the gradient norm of a step do not depend on packing or
on the split into micro-batches, whatever is trained; early stopping; patterns of ranks."""
import json
import os
import random
import signal

import pytest

import tiny_model
from conftest import Daemon
from test_real_engine import digest, engine_pid, finish, job, step_of

WORDS = "a bright cold day in april and the clocks were striking thirteen while the wind went through the gates of victory mansions".split()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    base = tiny_model.write(tmp_path_factory.mktemp("tiny") / "tiny-llama")
    d = Daemon(tmp_path_factory.mktemp("run"), ["--device", "cpu", "--threads", "2", "--model-name", "tiny"], base=base, real=True).start()
    yield d
    assert d.stop() == 0


def say(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def lines(make, n=24, seed=3):
    rng = random.Random(seed)
    return ("\n".join(json.dumps(make(rng)) for _ in range(n)) + "\n").encode()


def chat(rng, last_only=False):
    turns = rng.randint(1, 3)
    messages = []
    for i in range(turns):
        messages.append({"role": "user", "content": say(rng, 1, 8)})
        messages.append({"role": "assistant", "content": say(rng, 1, 8), "weight": int(i == turns - 1 or not last_only)})
    return {"messages": messages}


MODES = {
    "all assistant turns": (lambda rng: chat(rng), {}),
    "last turn only": (lambda rng: chat(rng, True), {}),
    "every token of a chat": (lambda rng: chat(rng), {"completion_only_loss": False}),
    "completion only": (lambda rng: {"prompt": say(rng, 1, 20), "completion": " " + say(rng, 1, 10)}, {}),
    "prompt and completion": (lambda rng: {"prompt": say(rng, 1, 20), "completion": " " + say(rng, 1, 10)}, {"completion_only_loss": False}),
    "text": (lambda rng: {"text": say(rng, 2, 30)}, {}),
}
SPLITS = {
    "packed": {},
    "unpacked": {"packing": False},
    "one at a time": {"micro_batch_size": 1, "gradient_accumulation_steps": 12},
    "in threes": {"micro_batch_size": 3, "gradient_accumulation_steps": 4},
}


def submit(d, data, valid=None, batch_size=12, seed=5, **qlora):
    body = {"model": "tiny", "training_file": d.upload(data).json["id"], "seed": seed,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": batch_size}}},
            "qlora": {"rank": 4, "logging_steps": 1, "learning_rate": 0.003, "warmup_steps": 0, "max_seq_length": 512, **qlora}}
    if valid is not None:
        body["validation_file"] = d.upload(valid).json["id"]
    r = d.post("/v1/fine_tuning/jobs", body)
    assert r.status == 200, r
    return r.json["id"]


def metrics(d, jid):
    events = d.get(f"/v1/fine_tuning/jobs/{jid}/events?limit=1000").json["data"]
    return [e["data"] for e in sorted((e for e in events if e["type"] == "metrics"), key=lambda e: e["data"]["step"])]


@pytest.mark.parametrize("mode", MODES)
def test_loss_and_norm_do_not_depend_on_the_split(daemon, mode):
    make, settings = MODES[mode]
    seen = {}
    for name, split in SPLITS.items():
        jid = submit(daemon, lines(make), max_steps=3, dropout=0.1, neftune_noise_alpha=5, **settings, **split)
        finish(daemon, jid)
        seen[name] = metrics(daemon, jid)
    whole = seen["packed"]
    assert len(whole) == 3 and whole[0]["train_loss"] != whole[1]["train_loss"] != whole[2]["train_loss"]
    for name, other in seen.items():
        for a, b in zip(whole, other):
            first = a["step"] == 1
            assert b["tokens"] == a["tokens"]
            assert abs(b["train_loss"] - a["train_loss"]) <= (1e-6 if first else 1e-5) * a["train_loss"], (name, a, b)
            assert abs(b["grad_norm"] - a["grad_norm"]) <= (1e-5 if first else 1e-3) * a["grad_norm"], (name, a, b)


def test_modes_train_different_tokens(daemon):
    """The comparison above would also hold if every mode trained the same."""
    targets = {}
    for mode, (make, settings) in MODES.items():
        jid = submit(daemon, lines(make), max_steps=1, **settings)
        targets[mode] = finish(daemon, jid)["qlora"]["dataset"]["target_tokens"]
    assert targets["last turn only"] < targets["all assistant turns"] < targets["every token of a chat"]
    assert targets["completion only"] < targets["prompt and completion"]


STOPPING = {"max_steps": 60, "eval_steps": 2, "early_stopping_patience": 3, "learning_rate": 0.5, "lr_scheduler": "constant",
            "max_grad_norm": 0, "neftune_noise_alpha": 5, "dropout": 0.1, "optimizer": "adamw_8bit"}


def test_early_stop_and_the_same_stop_after_a_kill(daemon):
    data, valid = tiny_model.chat_lines(40), tiny_model.chat_lines(12, 9)
    whole = submit(daemon, data, valid, **STOPPING)
    done = finish(daemon, whole)
    losses = [m["full_valid_loss"] for m in metrics(daemon, whole) if "full_valid_loss" in m]
    steps = done["qlora"]["progress"]["step"]
    assert steps < 60 and len(metrics(daemon, whole)) == steps
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) - 1 - best == 3  # three evaluations after the best one, then the end
    events = [e["message"] for e in daemon.get(f"/v1/fine_tuning/jobs/{whole}/events?limit=1000").json["data"]]
    assert f"Stopped early at step {steps}: the validation loss no longer improves" in events
    assert daemon.post("/v1/chat/completions", {"model": done["fine_tuned_model"], "max_tokens": 3,
                                                "messages": [{"role": "user", "content": "say ab"}]}).status == 200
    killed = submit(daemon, data, valid, **STOPPING)
    daemon.until(lambda: step_of(daemon, killed) >= min(3, steps - 1) or job(daemon, killed)["status"] == "succeeded", 60, "step")
    pid = engine_pid(daemon)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    again = finish(daemon, killed)
    assert again["qlora"]["progress"]["step"] == steps and digest(daemon, killed) == digest(daemon, whole)


def test_early_stop_threshold_and_its_needs(daemon):
    data, valid = tiny_model.chat_lines(40), tiny_model.chat_lines(12, 9)
    hard = submit(daemon, data, valid, max_steps=40, eval_steps=3, early_stopping_patience=1, early_stopping_threshold=100.0)
    assert finish(daemon, hard)["qlora"]["progress"]["step"] == 4  # evaluated at 3 and at the epoch's end: nothing improves by 100
    r = daemon.post("/v1/fine_tuning/jobs", {"model": "tiny", "training_file": daemon.upload(data).json["id"], "qlora": {"early_stopping_patience": 1}})
    assert r.status == 400 and r.json["error"]["param"] == "qlora.early_stopping_patience"


def test_patterns_reach_the_adapter(daemon):
    data = tiny_model.chat_lines(40)
    jid = submit(daemon, data, max_steps=2, alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
                 rank_pattern={"layers.1.self_attn.q_proj": 2, "q_proj": 8}, alpha_pattern={"v_proj": 32})
    finish(daemon, jid)
    config = json.loads((daemon.state / "adapters" / jid / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["lora_alpha"] == 8
    assert config["rank_pattern"] == {"model.layers.0.self_attn.q_proj": 8, "model.layers.1.self_attn.q_proj": 2}
    assert config["alpha_pattern"] == {f"model.layers.{i}.self_attn.v_proj": 32 for i in range(2)}
    more = daemon.post("/v1/fine_tuning/jobs", {"model": job(daemon, jid)["fine_tuned_model"], "training_file": daemon.upload(data).json["id"],
                                                "qlora": {"max_steps": 1}}).json
    finish(daemon, more["id"])  # goes on from it, with its shape
    assert json.loads((daemon.state / "adapters" / more["id"] / "adapter_config.json").read_text())["rank_pattern"] == config["rank_pattern"]
    bad = submit(daemon, data, max_steps=1, target_modules=["q_proj"], rank_pattern={"k_proj": 2})
    daemon.until(lambda: job(daemon, bad)["status"] == "failed", 30, "refusal")
    assert job(daemon, bad)["error"]["param"] == "rank_pattern" and "k_proj" in job(daemon, bad)["error"]["message"]

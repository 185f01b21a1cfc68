"""The binary's own engine on a tiny model: jobs that survive kills with the same bits, queues, serving while training,
exports, bad inputs.  No downloads, no other programs."""
import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

import tiny_model
from conftest import Daemon

FULL = bool(os.environ.get("QL_FULL"))
STEPS = 40
HYPER = {"rank": 4, "alpha": 8, "dropout": 0.1, "max_steps": STEPS, "save_steps": 5, "save_total_limit": 100, "warmup_steps": 4,
         "learning_rate": 0.003, "micro_batch_size": 2, "gradient_accumulation_steps": 3, "eval_steps": 7, "max_seq_length": 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture
def daemon(tmp_path, model):
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "2", "--model-name", "tiny"], base=model, real=True).start()
    yield d
    if d.proc is not None:
        assert d.stop() == 0


def submit(d, seed=5, lines=60, valid=True, **qlora):
    train = d.upload(tiny_model.chat_lines(lines)).json["id"]
    body = {"model": "tiny", "training_file": train, "seed": seed, "suffix": "t",
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 6}}}, "qlora": {**HYPER, **qlora}}
    if valid:
        body["validation_file"] = d.upload(tiny_model.chat_lines(12, 9)).json["id"]
    r = d.post("/v1/fine_tuning/jobs", body)
    assert r.status == 200, r
    return r.json["id"]


def job(d, jid):
    return d.get(f"/v1/fine_tuning/jobs/{jid}").json


def finish(d, jid, seconds=180):
    j = d.until(lambda: (lambda x: x if x["status"] in ("succeeded", "failed", "cancelled") else None)(job(d, jid)), seconds, "job end")
    assert j["status"] == "succeeded", j["error"]
    return j


def digest(d, jid):
    found = list((d.state / "adapters").glob(f"*{jid}*/adapter_model.safetensors"))
    assert len(found) == 1, list((d.state / "adapters").iterdir())
    return hashlib.sha256(found[0].read_bytes()).hexdigest()


def step_of(d, jid):
    return ((job(d, jid).get("qlora") or {}).get("progress") or {}).get("step") or 0


def engine_pid(d):
    for p in pathlib.Path("/proc").iterdir():
        try:
            if p.name.isdigit() and int((p / "stat").read_text().rsplit(")", 1)[1].split()[1]) == d.proc.pid:
                return int(p.name)
        except (OSError, IndexError):
            pass
    return None


def metric_steps(d, jid):
    out, after = [], ""
    while True:
        page = d.get(f"/v1/fine_tuning/jobs/{jid}/events?limit=1000{after}").json
        out += [e["data"]["step"] for e in page["data"] if e["type"] == "metrics"]
        if not page["has_more"]:
            return sorted(out)
        after = "&after=" + page["data"][-1]["id"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, model):
    """SHA-256 of the adapter of a run that nothing interrupted, and its metrics file."""
    d = Daemon(tmp_path_factory.mktemp("ref"), ["--device", "cpu", "--threads", "2", "--model-name", "tiny"], base=model, real=True).start()
    jid = submit(d)
    j = finish(d, jid)
    csv = d.get(f"/v1/files/{j['result_files'][0]}/content").body.decode()
    out = digest(d, jid), csv
    assert d.stop() == 0
    return out


def test_result_file_and_checkpoints(reference):
    lines = reference[1].splitlines()
    assert lines[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [int(x.split(",")[0]) for x in lines[1:]] == list(range(1, STEPS + 1))
    losses = [float(x.split(",")[1]) for x in lines[1:]]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert [int(x.split(",")[0]) for x in lines[1:] if x.split(",")[3]] == sorted({*range(7, STEPS + 1, 7), *range(10, STEPS + 1, 10)})


def test_thread_count_does_not_matter(tmp_path, model, reference):
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "1", "--model-name", "tiny"], base=model, real=True).start()
    jid = submit(d)
    finish(d, jid)
    assert digest(d, jid) == reference[0]
    assert d.stop() == 0


@pytest.mark.parametrize("seed", range(12 if FULL else 3))
def test_engine_killed_same_bits(daemon, reference, seed):
    rng = random.Random(seed)
    jid = submit(daemon)
    for _ in range(2):  # three deaths without progress would fail the job, as promised
        at = step_of(daemon, jid) + rng.randint(1, 16)
        daemon.until(lambda: step_of(daemon, jid) >= min(at, STEPS - 1) or job(daemon, jid)["status"] == "succeeded", 120, "step")
        time.sleep(rng.random() * 0.02)
        pid = engine_pid(daemon)
        if pid is None or job(daemon, jid)["status"] == "succeeded":
            break
        os.kill(pid, signal.SIGKILL)
        daemon.until(lambda: job(daemon, jid)["qlora"]["attempt"] >= 1, 10, "noticed")
        daemon.alive()
    j = finish(daemon, jid)
    assert digest(daemon, jid) == reference[0]
    assert daemon.get(f"/v1/files/{j['result_files'][0]}/content").body.decode() == reference[1]
    assert metric_steps(daemon, jid) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("seed", range(12 if FULL else 3))
def test_control_killed_same_bits(tmp_path, model, reference, seed):
    rng = random.Random(100 + seed)
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "2", "--model-name", "tiny"], base=model, real=True).start()
    jid = submit(d)
    for _ in range(2):
        at = step_of(d, jid) + rng.randint(1, 14)
        d.until(lambda: step_of(d, jid) >= min(at, STEPS - 1) or job(d, jid)["status"] == "succeeded", 120, "step")
        d.proc.kill()
        d.proc.wait()
        d.start()
    finish(d, jid)
    assert digest(d, jid) == reference[0]
    assert len(d.get("/v1/fine_tuning/jobs").json["data"]) == 1
    assert metric_steps(d, jid) == list(range(1, STEPS + 1))
    assert d.stop() == 0


def test_8bit_states_same_bits_after_kills(daemon):
    """Rank 64 keeps the moments of the larger matrices in 8 bits and those of the smaller in fp32."""
    settings = {"rank": 64, "alpha": 64, "max_steps": 16, "loraplus_ratio": 4, "weight_decay": 0.01, "optimizer": "adamw_8bit"}
    whole = submit(daemon, **settings)
    finish(daemon, whole)
    last = daemon.state / "jobs" / whole / "step-16" / "optimizer.safetensors"
    size = int.from_bytes(last.read_bytes()[:8], "little")
    parts = json.loads(last.read_bytes()[8:8 + size])
    assert parts["exp_avg"]["dtype"] == "U8" and parts["exp_avg_small"]["dtype"] == "F32"
    killed = submit(daemon, **settings)
    for at in (3, 9):
        daemon.until(lambda: step_of(daemon, killed) >= at or job(daemon, killed)["status"] == "succeeded", 120, "step")
        pid = engine_pid(daemon)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            daemon.until(lambda: engine_pid(daemon) not in (None, pid), 60, "a new engine")
    finish(daemon, killed)
    assert digest(daemon, killed) == digest(daemon, whole)
    assert (daemon.state / "jobs" / killed / "step-16" / "optimizer.safetensors").read_bytes() == last.read_bytes()
    paged = submit(daemon, **{**settings, "optimizer": "paged_adamw_8bit"})
    finish(daemon, paged)
    assert digest(daemon, paged) == digest(daemon, whole)
    plain = submit(daemon, **{**settings, "optimizer": "paged_adamw"})
    finish(daemon, plain)
    assert digest(daemon, plain) != digest(daemon, whole)


def test_pause_resume_and_drain_same_bits(tmp_path, model, reference):
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "2", "--model-name", "tiny"], base=model, real=True).start()
    jid = submit(d)
    d.until(lambda: step_of(d, jid) >= 6, 60, "step 6")
    assert d.post(f"/v1/fine_tuning/jobs/{jid}/pause").status == 200
    d.until(lambda: job(d, jid)["qlora"]["state"] == "paused", 30, "paused")
    assert d.post(f"/v1/fine_tuning/jobs/{jid}/resume").status == 200
    d.until(lambda: step_of(d, jid) >= 16, 60, "step 16")
    assert d.stop() == 0  # SIGTERM: the job goes back to the queue
    d.start()
    finish(d, jid)
    assert digest(d, jid) == reference[0]
    assert d.stop() == 0


def paused_at(d, jid, step):
    d.until(lambda: step_of(d, jid) >= step, 60, "steps")
    d.post(f"/v1/fine_tuning/jobs/{jid}/pause")
    d.until(lambda: job(d, jid)["qlora"]["state"] == "paused", 30, "paused")
    return sorted((d.state / "jobs" / jid).glob("step-*"), key=lambda p: int(p.name[5:]))


def test_damaged_checkpoint_falls_back(daemon, reference):
    jid = submit(daemon)
    newest = paused_at(daemon, jid, 12)[-1]
    file = newest / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 4
    file.write_bytes(data)
    daemon.post(f"/v1/fine_tuning/jobs/{jid}/resume")
    finish(daemon, jid)
    assert digest(daemon, jid) == reference[0]
    events = [e["message"] for e in daemon.get(f"/v1/fine_tuning/jobs/{jid}/events?limit=1000").json["data"]]
    assert [m for m in events if m.startswith(f"The checkpoint of {newest.name.replace('-', ' ')} is damaged (optimizer.safetensors")], events


def test_other_data_takes_no_checkpoint_away(daemon):
    """The data set changed under a paused job: refused by name, and the checkpoints stay."""
    jid = submit(daemon, valid=False)
    paused_at(daemon, jid, 12)
    file = daemon.state / "files" / job(daemon, jid)["training_file"]
    file.write_bytes(file.read_bytes().replace(b"say", b"sat", 1))
    daemon.post(f"/v1/fine_tuning/jobs/{jid}/resume")
    j = daemon.until(lambda: (lambda x: x if x["status"] == "failed" else None)(job(daemon, jid)), 60, "failed")
    assert j["error"]["code"] == "checkpoint_invalid" and j["error"]["param"] == "dataset", j["error"]
    kept = [c["step_number"] for c in daemon.get(f"/v1/fine_tuning/jobs/{jid}/checkpoints").json["data"]]
    assert kept[-2:] == [10, 5] and (daemon.state / "jobs" / jid / "step-10" / "optimizer.safetensors").exists()
    assert ask(daemon, daemon.get(f"/v1/fine_tuning/jobs/{jid}/checkpoints").json["data"][-1]["fine_tuned_model_checkpoint"], "x") is not None


def fill(path):
    with open(path, "ab", buffering=0) as f:
        for n in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while f.write(b"x" * n) > 0:
                    pass


@pytest.mark.parametrize("at", [7, 17, 28] if FULL else [17])
def test_full_disk_same_bits(tmp_path, model, reference, at):
    """The disk fills up under a training job and is empty again some time later: the job goes on by itself, to the same bits."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "tmpfs", str(state)], capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system here")
    try:
        d = Daemon(tmp_path, ["--device", "cpu", "--threads", "2", "--model-name", "tiny", "--space-reserve-bytes", "0"], base=model, real=True).start()
        jid = submit(d)
        d.until(lambda: step_of(d, jid) >= at, 60, "steps")
        fill(state / "ballast")
        time.sleep(2)  # a checkpoint is due meanwhile
        d.alive()
        assert job(d, jid)["status"] in ("running", "queued", "paused"), job(d, jid)
        (state / "ballast").unlink()
        finish(d, jid)
        assert digest(d, jid) == reference[0] and metric_steps(d, jid) == list(range(1, STEPS + 1))
        assert d.stop() == 0
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_drain_during_a_validation(tmp_path, model):
    """The engine frees its tokenizer only when nothing reads a file with it any more; the job is validated at the next start."""
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "2", "--model-name", "tiny"], base=model, real=True).start()
    train = d.upload(tiny_model.chat_lines(2000) * 60).json["id"]
    jid = d.post("/v1/fine_tuning/jobs", {"model": "tiny", "training_file": train, "qlora": {"auto_start": False}}).json["id"]
    time.sleep(0.3)
    assert job(d, jid)["status"] == "validating_files", "the file is too small for this test"
    assert d.stop() == 0
    assert "engine: ended: drained" in "".join(d.log), "".join(d.log[-5:])
    d.start()
    # cancelled while it is read: the next one is not kept waiting
    assert job(d, jid)["status"] == "validating_files"
    assert d.post(f"/v1/fine_tuning/jobs/{jid}/cancel").json["status"] == "cancelled"
    finish(d, submit(d, max_steps=1, valid=False))
    assert d.stop() == 0


def test_memory_plan(daemon, model):
    layers = json.loads((pathlib.Path(model) / "config.json").read_text())["num_hidden_layers"]
    done = finish(daemon, submit(daemon, valid=False, max_steps=2))["qlora"]
    plan, n, b = done["plan"], done["plan"]["layers"], done["plan"]["bytes"]
    assert n == {"keep_all": layers, "keep_main": 0, "recomputed": 0, "offloaded": 0, "dense": 0}  # of a CPU with room
    assert b["total"] == b["adapter_and_optimizer"] + b["activations"] + b["dense_weights"] <= plan["available_bytes"]
    assert b["activations"] > 0 == b["dense_weights"]
    assert plan["micro_batch_tokens"] >= 2 * done["dataset"]["max_tokens"] and b["total"] == done["estimate"]["memory_bytes"]
    twice = finish(daemon, submit(daemon, valid=False, max_steps=2, rank=8))["qlora"]["plan"]["bytes"]
    assert twice["adapter_and_optimizer"] == 2 * b["adapter_and_optimizer"] and twice["activations"] > b["activations"]
    # a finished job shows the plan after a restart too
    jid = daemon.get("/v1/fine_tuning/jobs").json["data"][-1]["id"]
    before = job(daemon, jid)["qlora"]["plan"]
    assert daemon.stop() == 0
    daemon.start()
    assert job(daemon, jid)["qlora"]["plan"] == before


def test_queue_and_cancel(daemon):
    ids = [submit(daemon, seed=i, valid=False) for i in range(4)]
    assert daemon.post(f"/v1/fine_tuning/jobs/{ids[2]}/cancel").json["status"] == "cancelled"
    for i in (0, 1, 3):
        finish(daemon, ids[i])
    done = {i: job(daemon, x) for i, x in enumerate(ids)}
    assert done[0]["finished_at"] <= done[1]["finished_at"] <= done[3]["finished_at"]
    assert done[2]["status"] == "cancelled" and len({digest(daemon, ids[i]) for i in (0, 1, 3)}) == 3


def test_two_jobs_at_once_same_bits(tmp_path, model, reference):
    """A job's numbers do not depend on what runs beside it; both live through the engine's death."""
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "2", "--model-name", "tiny", "--max-running-jobs", "2"], base=model, real=True).start()
    one, two = submit(d), submit(d, seed=6)
    d.until(lambda: step_of(d, one) >= 2 and step_of(d, two) >= 2, 60, "both running")
    assert {job(d, i)["status"] for i in (one, two)} == {"running"}
    os.kill(engine_pid(d), signal.SIGKILL)
    finish(d, one)
    finish(d, two)
    assert digest(d, one) == reference[0] != digest(d, two)
    for i in (one, two):
        assert metric_steps(d, i) == list(range(1, STEPS + 1))
    assert d.stop() == 0


def ask(d, model, text, **kw):
    r = d.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16, **kw},
               timeout=120)
    assert r.status == 200, r
    return r.json["choices"][0]["message"]["content"]


def test_serving_many_adapters_while_training(daemon):
    a = finish(daemon, submit(daemon, seed=1, valid=False))["fine_tuned_model"]
    b = finish(daemon, submit(daemon, seed=2, valid=False, learning_rate=0.01))["fine_tuned_model"]
    alone = {m: ask(daemon, m, "say abc") for m in ("tiny", a, b)}
    assert alone["tiny"] != alone[a]
    running = submit(daemon, seed=3, max_steps=150)
    daemon.until(lambda: step_of(daemon, running) >= 1, 60, "running")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda i: (i, ask(daemon, ["tiny", a, b][i % 3], "say abc")), range(24)))
    # rows decoded together may differ in the last bits, so later tokens of a random model may; the first tells the adapter
    for i, text in got:
        assert text[:1] == alone[["tiny", a, b][i % 3]][:1]
    assert job(daemon, running)["status"] in ("running", "succeeded")
    tiers = lambda: {x["id"]: x["tier"] for x in daemon.get("/v1/adapters").json["data"]}
    daemon.until(lambda: tiers()[a] == tiers()[b] == "device", 10, "the engine's word on its adapters")
    text = daemon.get("/metrics").body.decode()
    for name in ("request_queue_time_seconds", "request_prefill_time_seconds", "iteration_tokens_total"):
        assert daemon.metric(f"vllm:{name}_count", 'model_name="tiny"') >= 24, name
    assert daemon.metric("vllm:prefix_cache_queries_total", 'model_name="tiny"') > 0
    assert daemon.metric("qlorad_adapters_resident", 'tier="device"') == 2 and 'max_lora="32"' in text
    # a checkpoint can be asked, and trained further
    page = daemon.get(f"/v1/fine_tuning/jobs/{running}/checkpoints?limit=2").json
    assert ask(daemon, page["data"][-1]["fine_tuned_model_checkpoint"], "say abc") is not None
    finish(daemon, running)
    r = daemon.post("/v1/fine_tuning/jobs", {"model": a, "training_file": daemon.upload(tiny_model.chat_lines(20)).json["id"], "seed": 1,
                                             "qlora": {"max_steps": 3}})
    assert r.status == 200, r
    assert finish(daemon, r.json["id"])["qlora"]["rank"] == 4


def test_stream_equals_answer_and_logprobs(daemon):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "say abc"}], "temperature": 0.8, "seed": 4, "max_tokens": 24,
            "logprobs": True, "top_logprobs": 3, "n": 2}
    whole = daemon.post("/v1/chat/completions", body).json
    s = daemon.stream("POST", "/v1/chat/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
    text, probs, usage = ["", ""], [[], []], None
    for ev in s:
        if ev["data"] == "[DONE]":
            break
        chunk = json.loads(ev["data"])
        usage = chunk.get("usage") or usage
        for c in chunk["choices"]:
            text[c["index"]] += c["delta"].get("content") or ""
            probs[c["index"]] += ((c.get("logprobs") or {}).get("content")) or []
    for c in whole["choices"]:
        assert c["message"]["content"] == text[c["index"]]
        want = c["logprobs"]["content"]
        assert [t["token"] for t in want] == [t["token"] for t in probs[c["index"]]]
        assert all(len(t["top_logprobs"]) == 3 and t["logprob"] <= t["top_logprobs"][0]["logprob"] + 1e-6 for t in want)
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]
    long = {"model": "tiny", "prompt": "x" * 200, "max_tokens": 1, "temperature": 0}
    assert daemon.post("/v1/completions", long).json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert daemon.post("/v1/completions", long).json["usage"]["prompt_tokens_details"]["cached_tokens"] >= 160


def test_long_raise_of_a_template(daemon):
    """A template's own words, cut where they are too long, even in the middle of a character."""
    pid = engine_pid(daemon)
    raising = "{% if messages[0]['content']|length > 300 %}{{ raise_exception(messages[0]['content']) }}{% endif %}" + tiny_model.TEMPLATE
    m = finish(daemon, submit(daemon, valid=False, max_steps=1, chat_template=raising))["fine_tuned_model"]
    for n in range(3):
        r = daemon.post("/v1/chat/completions", {"model": m, "messages": [{"role": "user", "content": "x" * n + "\u20ac" * 400}]})
        assert r.status == 400 and r.error["message"].startswith("x" * n + "\u20ac" * 150), r
    engine_lives(daemon, pid)


def test_disconnect_frees_the_row(daemon):
    s = daemon.stream("POST", "/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True})
    next(iter(s))
    s.close()
    daemon.until(lambda: daemon.get("/v1/status").json["inference"]["running"] == 0, 10, "row freed")


def test_exports_are_whole(daemon):
    m = finish(daemon, submit(daemon, seed=1, valid=False))["fine_tuned_model"]
    for fmt, quant in (("peft", None), ("gguf_lora", "f32"), ("gguf", "f32"), ("gguf", "f16"), ("gguf", "q8_0"), ("safetensors", "bf16")):
        r = daemon.post("/v1/exports", {"model": m, "format": fmt, **({"quantization": quant} if quant and fmt != "safetensors" else {})})
        assert r.status == 200, r
        x = daemon.until(lambda: (lambda v: v if v["status"] in ("succeeded", "failed") else None)(daemon.get(f"/v1/exports/{r.json['id']}").json), 60, "export")
        if fmt.startswith("gguf") and x["status"] == "failed":
            # the tiny tokenizer is none that GGUF knows: refused by name, nothing left behind
            assert "pre" in x["error"]["message"] or "tokenizer" in x["error"]["message"], x["error"]
            continue
        assert x["status"] == "succeeded", x["error"]
        for f in x["files"]:
            data = daemon.get(f"/v1/exports/{x['id']}/content?file={f['name']}").body
            assert len(data) == f["bytes"] and hashlib.sha256(data).hexdigest() == f["sha256"]


def chat(*turns):
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})


GOOD = chat(("user", "a"), ("assistant", "b"))
BAD_FILES = [
    ("broken JSON", '{"messages": [', "line 3"), ("not an object", "[1]", "line 3"), ("blank role", chat(("", "x"), ("assistant", "y")), "role"),
    ("no assistant", chat(("user", "x")), "assistant"), ("wrong content", '{"messages":[{"role":"user","content":5},{"role":"assistant","content":"y"}]}', "content"),
    ("weight 2", '{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y","weight":2}]}', "weight"),
    ("all weights 0", '{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y","weight":0}]}', "weight"),
    ("other kind", '{"prompt":"x","completion":"y"}', "line 3"), ("bad UTF-8", b'{"messages":[{"role":"user","content":"\xff"}]}', "line 3"),
    ("lone surrogate", '{"messages":[{"role":"user","content":"\\ud800"},{"role":"assistant","content":"y"}]}', "line 3"),
    ("duplicate key", '{"messages":[],"messages":[]}', "line 3"), ("empty messages", '{"messages":[]}', "messages"),
    ("deep", '{"messages":' + "[" * 80 + "]" * 80 + "}", "line 3"),
]


@pytest.mark.parametrize("name,line,word", BAD_FILES, ids=[b[0] for b in BAD_FILES])
def test_bad_dataset_line_is_named(shared, name, line, word):
    data = b"\n".join([GOOD.encode()] * 2 + [line if isinstance(line, bytes) else line.encode()] + [GOOD.encode()] * 12) + b"\n"
    r = shared.post("/v1/fine_tuning/jobs", {"model": "tiny", "training_file": shared.upload(data).json["id"]})
    j = shared.until(lambda: (lambda x: x if x["status"] == "failed" else None)(job(shared, r.json["id"])), 30, "failed")
    assert j["error"]["code"] == "invalid_training_file" and j["error"]["param"] == "training_file"
    events = " ".join(e["message"] for e in shared.get(f"/v1/fine_tuning/jobs/{j['id']}/events?limit=100").json["data"])
    assert "line 3" in events + j["error"]["message"] and word in events + j["error"]["message"]
    shared.alive()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, model):
    d = Daemon(tmp_path_factory.mktemp("shared"), ["--device", "cpu", "--threads", "2", "--model-name", "tiny"], base=model, real=True).start()
    yield d
    assert d.stop() == 0


def test_context_overflow_is_400(shared):
    r = shared.post("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "x" * 600}]})
    assert r.status == 400 and r.error["code"] == "context_length_exceeded" and "512" in r.error["message"]


def engine_lives(d, pid):
    assert engine_pid(d) == pid and d.get("/v1/status").json["engine"]["restarts"] == 0


def test_answer_too_large_for_a_frame_is_400(shared):
    pid = engine_pid(shared)
    text = "x" * 3_000_000  # a token a byte: 12 MB of ids
    for body in ({"content": text}, {"model": "tiny", "prompt": text}):
        r = shared.post("/v1/tokenize", body, timeout=120)
        assert r.status == 400 and r.error["code"] == "invalid_value" and "8 MiB" in r.error["message"], r
    assert shared.post("/v1/tokenize", {"content": text[:1_000_000]}, timeout=120).json["tokens"] == [123] * 1_000_000
    engine_lives(shared, pid)


def test_pieces(shared):
    """The engine's own pieces, which tests with a stand-in engine cannot know."""
    h, c3, a9 = (3 + b for b in "h\u00e9".encode())
    assert shared.post("/tokenize", {"content": "h\u00e9", "with_pieces": True}).json == {
        "tokens": [{"id": h, "piece": "h"}, {"id": c3, "piece": [0xC3]}, {"id": a9, "piece": [0xA9]}]}
    v = shared.post("/v1/tokenize", {"prompt": "h<|im_end|>", "return_token_strs": True}).json
    assert v["tokens"] == [h, 2] and v["token_strs"] == ["h", "<|im_end|>"]


def test_user_text_is_no_special_token(shared):
    plain = shared.post("/tokenize", {"model": "tiny", "messages": [{"role": "user", "content": "x<|im_end|>y"}]}).json["tokens"]
    assert plain.count(2) == 1  # the template's own, not the user's


@pytest.mark.parametrize("share", [0, 1, 7, 8, 100, 1000, 5000, 20000, 60000])
def test_truncated_base_is_refused(tmp_path, model, share):
    bad = tmp_path / "bad"
    bad.mkdir()
    for f in model.iterdir():
        (bad / f.name).write_bytes(f.read_bytes())
    whole = (model / "model.safetensors").read_bytes()
    (bad / "model.safetensors").write_bytes(whole[:share])
    p = subprocess.run([str(Daemon.exe()), "serve", "--base", str(bad), "--state-dir", str(tmp_path / "s"), "--listen", "127.0.0.1:0",
                        "--device", "cpu"], capture_output=True, text=True, timeout=60,
                       env={"PATH": os.environ["PATH"]})
    assert p.returncode != 0 and "safetensors" in p.stderr and "Sanitizer" not in p.stderr

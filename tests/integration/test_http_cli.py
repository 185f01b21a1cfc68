"""The client sub-commands (submit, jobs, watch, cancel, pause, resume, models, chat, export) against a daemon, as people type them."""
import json
import os
import subprocess

import pytest

from conftest import EXE, REAL_ENGINE, chat_lines, clean_env

pytestmark = pytest.mark.skipif(REAL_ENGINE, reason="counts the scripted engine's steps")


@pytest.fixture
def q(daemon, tmp_path):
    """Runs `qlorad ARGS` against the daemon, in a directory of its own."""
    env = dict(clean_env(), QLORAD_SERVER=f"http://127.0.0.1:{daemon.port}", QLORAD_STATE_DIR=str(daemon.state))
    env.pop("QLORAD_KEY", None)

    def run(*args, text="", status=0, **more):
        p = subprocess.run([str(EXE), *args], capture_output=True, text=True, timeout=60, input=text, cwd=tmp_path, env=dict(env, **more))
        assert p.returncode == status, (args, p.returncode, p.stdout, p.stderr)
        return p.stderr if status else p.stdout
    (tmp_path / "train.jsonl").write_bytes(chat_lines())
    return run


def test_a_job_from_submit_to_export(q, daemon, tmp_path):
    out = q("submit", "train.jsonl", "--suffix", "cli", "--epochs", "2", "--rank", "4", "--set", "neftune_noise_alpha=5", "--seed", "3", "--watch")
    job = out.splitlines()[0]
    seen = daemon.get(f"/v1/fine_tuning/jobs/{job}").json
    assert seen["status"] == "succeeded" and seen["seed"] == 3 and seen["hyperparameters"]["n_epochs"] == 2
    assert seen["qlora"]["rank"] == 4 and seen["qlora"]["neftune_noise_alpha"] == 5
    assert "step " in out and "loss " in out and "successfully completed" in out
    row = next(line for line in q("jobs").splitlines() if line.startswith(job))
    assert "succeeded" in row and seen["fine_tuned_model"] in row
    assert json.loads(q("jobs", job))["id"] == job
    assert job in [j["id"] for j in json.loads(q("jobs", "--json"))["data"]]
    events = [json.loads(line) for line in q("watch", job, "--json").splitlines()]
    assert {e["type"] for e in events} == {"message", "metrics"} and events == sorted(events, key=lambda e: e["created_at"])
    models = q("models").split()
    assert seen["fine_tuned_model"] in models and seen["model"] in models
    (tmp_path / "out").mkdir()
    files = q("export", seen["fine_tuned_model"], "--format", "gguf", "--quantization", "q8_0", "--out", "out").split()
    assert files and all((tmp_path / f).stat().st_size > 0 for f in files)


def test_chat(q, model):
    plain = q("chat", "Who are you?", "--max-tokens", "5", "--temperature", "0")
    assert plain.strip()
    said = json.loads(q("chat", "Who are you?", "--max-tokens", "5", "--temperature", "0", "--model", model, "--json"))
    assert said["role"] == "assistant" and said["content"].strip() == plain.strip()
    assert len(q("chat", "--system", "Be brief.", "--max-tokens", "5", text="one\n\ntwo\n").splitlines()) >= 2


def test_pause_resume_cancel(q, make_daemon, tmp_path):
    d = make_daemon(env={"QLORAD_TEST_STEPS": "400", "QLORAD_TEST_STEP_MS": "50", "QLORAD_TEST_SAVE": "20"})
    at = ("--server", f"http://127.0.0.1:{d.port}", "--state-dir", str(d.state))
    job = q("submit", "train.jsonl", *at).strip()
    state = lambda *want: d.until(lambda: d.get(f"/v1/fine_tuning/jobs/{job}").json["qlora"]["state"] in want, 30, want)
    state("running")
    assert q("pause", job, *at).startswith(job)
    state("paused")
    q("resume", job, *at)
    state("running", "queued")
    assert json.loads(q("cancel", job, "--json", *at))["id"] == job
    state("cancelled")
    assert q("watch", job, *at, status=1) is not None


@pytest.mark.parametrize("args,status,word", [
    (["submit"], 1, "usage"), (["submit", "train.jsonl", "--rank"], 1, "--rank"), (["submit", "train.jsonl", "--rank", "x"], 1, "rank"),
    (["submit", "train.jsonl", "--unknown", "1"], 1, "--unknown"), (["submit", "missing.jsonl"], 1, "missing.jsonl"),
    (["submit", "train.jsonl", "--set", "rank"], 1, "KEY=VALUE"), (["submit", "train.jsonl", "--set", "no_such=1"], 1, "no_such"),
    (["submit", "train.jsonl", "--model", "nobody"], 1, "nobody"), (["jobs", "a", "b"], 2, "usage"), (["jobs", "ftjob-nothing"], 1, ""),
    (["watch"], 2, "usage"), (["watch", "ftjob-nothing"], 1, ""), (["cancel"], 2, "usage"), (["cancel", "--now"], 2, "usage"),
    (["pause", "a", "b"], 2, "usage"), (["models", "more"], 2, "usage"), (["chat", "a", "b"], 1, "usage"),
    (["chat", "a", "--temperature", "hot"], 1, "temperature"), (["chat", "a", "--model", "nobody"], 1, "nobody"), (["export"], 2, "usage"),
    (["export", "nobody"], 1, "nobody"), (["models", "--server", "ftp://x"], 1, "--server"), (["models", "--key-file", "none"], 1, "none"),
    (["models", "--server", "http://127.0.0.1:1"], 1, ""), (["models", "--key", "wrong"], 1, "")])
def test_wrong_words_are_refused(q, args, status, word):
    err = q(*args, status=status)
    assert word in err and len(err.splitlines()) <= 3 and err.strip()


@pytest.mark.parametrize("name", "submit jobs watch cancel pause resume models chat export".split())
def test_help(q, name):
    assert q(name, "--help").startswith(f"usage: qlorad {name}")
    assert os.path.exists(EXE)

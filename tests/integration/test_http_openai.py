"""The official `openai` package against the daemon, with strict checking of every answer.  Needs QL_PYTHON."""
import os
import subprocess

import pytest

from conftest import REAL_ENGINE, chat_lines

QL_PYTHON = os.environ.get("QL_PYTHON")

SCRIPT = r'''
import os, sys, time
import openai
from openai import OpenAI


c = OpenAI(base_url=os.environ["BASE"], api_key=os.environ["KEY"], _strict_response_validation=True, max_retries=0, timeout=60)
def wait(job):
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.2)
        job = c.fine_tuning.jobs.retrieve(job.id)
    return job

models = list(c.models.list())
base = models[0].id
assert c.models.retrieve(base).id == base
f = c.files.create(file=open(os.environ["FILE"], "rb"), purpose="fine-tune")
assert c.files.wait_for_processing(f.id, max_wait_seconds=20).status == "processed"
assert c.files.retrieve(f.id).filename == f.filename
assert f.id in [x.id for x in c.files.list(limit=1)]
assert c.files.content(f.id).read() == open(os.environ["FILE"], "rb").read()
g = c.files.create(file=("g.jsonl", b"{}\n"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600})
assert g.expires_at == g.created_at + 3600

job = c.fine_tuning.jobs.create(model=base, training_file=f.id, suffix="openai", seed=3, metadata={"a": "b"},
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 2}}},
    extra_body={"qlora": {"rank": 4, "alpha": 8, "max_steps": 10}})
assert job.status == "validating_files" and job.error is None and job.seed == 3
job = wait(job)
assert job.status == "succeeded", job
assert job.fine_tuned_model and job.trained_tokens and job.hyperparameters.n_epochs == 1
assert job.id in [x.id for x in c.fine_tuning.jobs.list(limit=1)]
events = list(c.fine_tuning.jobs.list_events(job.id, limit=3))
assert events[0].message == "The job has successfully completed" and len(events) == len({e.id for e in events}) > 5
assert any(e.type == "metrics" and e.data["step"] == 1 for e in events)
ckpts = list(c.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
assert ckpts and ckpts[0].fine_tuned_model_checkpoint == job.fine_tuned_model and ckpts[0].metrics is not None
assert "step,train_loss" in c.files.content(job.result_files[0]).text

m = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
for name in (base, job.fine_tuned_model, ckpts[-1].fine_tuned_model_checkpoint):
    r = c.chat.completions.create(model=name, messages=m, max_tokens=8, temperature=0)
    assert r.choices[0].message.role == "assistant" and r.model == name and r.usage.total_tokens > 0
    text, usage, finish = "", None, None
    for chunk in c.chat.completions.create(model=name, messages=m, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        else:
            usage = chunk.usage
    assert text == r.choices[0].message.content and finish == r.choices[0].finish_reason and usage.total_tokens == r.usage.total_tokens
with c.chat.completions.stream(model=base, messages=m, max_tokens=4) as s:
    for _ in s:
        pass
    assert s.get_final_completion().choices[0].message.content is not None
r = c.completions.create(model=base, prompt="x", max_tokens=4)
assert isinstance(r.choices[0].text, str)
# the package's own type of a streamed completion has no null finish_reason, which every server sends until the last chunk
loose = OpenAI(base_url=os.environ["BASE"], api_key=os.environ["KEY"], max_retries=0)
plain = c.completions.create(model=base, prompt="x", max_tokens=4, temperature=0).choices[0]
got = [x.choices[0] for x in loose.completions.create(model=base, prompt="x", max_tokens=4, temperature=0, stream=True)]
assert "".join(x.text for x in got) == plain.text and [x.finish_reason for x in got] == [None] * (len(got) - 1) + [plain.finish_reason]
raw = c.chat.completions.with_raw_response.create(model=base, messages=m, user="u")
assert raw.headers["x-qlora-ignored"] == "user" and raw.parse().id

def refused(kind, fn, **kw):
    try:
        fn()
    except kind as e:
        for k, v in kw.items():
            assert getattr(e, k) == v, (k, getattr(e, k))
        return
    raise AssertionError(kind)
refused(openai.NotFoundError, lambda: c.models.retrieve("nope"), code="model_not_found", param="model")
refused(openai.NotFoundError, lambda: c.files.retrieve("file-x"), code=None, param="id")
refused(openai.BadRequestError, lambda: c.chat.completions.create(model=base, messages=m, temperature=3), param="temperature", code="invalid_value")
refused(openai.BadRequestError, lambda: c.fine_tuning.jobs.cancel(job.id), code="invalid_state")
refused(openai.AuthenticationError, lambda: c.with_options(api_key="qlo_wrong").models.list(), code="invalid_api_key")
job = c.fine_tuning.jobs.create(model=job.fine_tuned_model, training_file=f.id)
job = c.fine_tuning.jobs.pause(job.id) if c.fine_tuning.jobs.retrieve(job.id).status in ("queued", "running") else job
assert c.fine_tuning.jobs.cancel(job.id).status in ("cancelled", "succeeded")
assert c.models.delete(ckpts[-1].fine_tuned_model_checkpoint).deleted
assert c.files.delete(f.id).deleted
print("done", openai.__version__)
'''


@pytest.mark.skipif(not QL_PYTHON, reason="QL_PYTHON names no Python with the openai package")
def test_official_client(make_daemon, tmp_path):
    # `paused` is not in the package's list of states; the setting is for clients that check it
    d = make_daemon(["--report-paused-as", "queued"], env={} if REAL_ENGINE else {"QLORAD_TEST_STEPS": "10"})
    (tmp_path / "train.jsonl").write_bytes(chat_lines(40))
    env = {**os.environ, "BASE": f"http://127.0.0.1:{d.port}/v1", "KEY": d.token, "FILE": str(tmp_path / "train.jsonl")}
    p = subprocess.run([QL_PYTHON, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=600)
    assert p.returncode == 0 and p.stdout.startswith("done"), p.stdout + p.stderr[-3000:]

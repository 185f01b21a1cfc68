"""Jobs over HTTP: objects, events and their stream, checkpoints, models, exports, paging, repeats, dashboards' polling."""
import concurrent.futures
import hashlib
import json
import re
import time

import pytest

from conftest import REAL_ENGINE, chat_lines

pytestmark = pytest.mark.skipif(REAL_ENGINE, reason="counts the scripted engine's steps")
J, E = "/v1/fine_tuning/jobs", "/v1/exports"
SLOW = {"QLORAD_TEST_STEPS": "400", "QLORAD_TEST_STEP_MS": "50", "QLORAD_TEST_SAVE": "20"}


def create(d, model, file, **kw):
    headers = kw.pop("headers", None)
    r = d.post(J, {"model": model, "training_file": file, **kw}, headers=headers)
    assert r.status == 200, r
    return r.json


def ended(d, jid, seconds=30):
    return d.until(lambda: (lambda v: v if v["status"] in ("succeeded", "failed", "cancelled") else None)(d.get(f"{J}/{jid}").json), seconds, "end")


def in_state(d, jid, *states):
    return d.until(lambda: (lambda v: v if v["qlora"]["state"] in states else None)(d.get(f"{J}/{jid}").json), 30, states)


@pytest.fixture(scope="module")
def done(daemon, model, training_file):
    job = create(daemon, model, training_file, suffix="my-style", seed=7, metadata={"team": "a"})
    assert job["status"] == "validating_files"
    return ended(daemon, job["id"])


REQUIRED = ("id object created_at finished_at model fine_tuned_model organization_id status hyperparameters training_file validation_file "
            "result_files trained_tokens seed error").split()


def test_object(daemon, model, training_file, done):
    assert set(REQUIRED) <= set(done)
    assert re.fullmatch("ftjob-[0-9a-z]{24}", done["id"]) and done["object"] == "fine_tuning.job" and done["status"] == "succeeded"
    assert done["error"] is None and done["validation_file"] is None and done["seed"] == 7 and done["model"] == model
    assert done["organization_id"] == "org-qlorad" and done["user_provided_suffix"] == "my-style" and done["metadata"] == {"team": "a"}
    assert set(done["hyperparameters"]) == {"n_epochs", "batch_size", "learning_rate_multiplier"}
    assert all(isinstance(v, (int, float)) for v in done["hyperparameters"].values())
    assert re.fullmatch(r"ft:.+:qlorad:my-style:[0-9A-Za-z]{8}", done["fine_tuned_model"])
    assert done["finished_at"] >= done["created_at"] and done["trained_tokens"] > 0 and len(done["result_files"]) == 1
    q = done["qlora"]
    assert q["state"] == "succeeded" and q["rank"] == 16 and q["alpha"] == 32
    text = daemon.get(f"/v1/files/{done['result_files'][0]}/content").body.decode()
    assert text.splitlines()[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    f = daemon.get("/v1/files/" + done["result_files"][0]).json
    assert f["purpose"] == "fine-tune-results" and f["filename"] == "step_metrics.csv"


def test_events(daemon, done):
    got, after = [], ""
    while True:
        page = daemon.get(f"{J}/{done['id']}/events?limit=4" + (f"&after={after}" if after else "")).json
        assert page["object"] == "list" and len(page["data"]) <= 4
        got += page["data"]
        if not page["has_more"]:
            break
        after = page["data"][-1]["id"]
    assert len({e["id"] for e in got}) == len(got)
    for e in got:
        assert set(e) >= {"id", "object", "created_at", "level", "message", "type", "data"}
        assert e["object"] == "fine_tuning.job.event" and e["level"] in ("info", "warn", "error") and e["type"] in ("message", "metrics")
        assert isinstance(e["data"], dict) and re.fullmatch("ftevent-[0-9a-z]{24}", e["id"])
    texts = [e["message"] for e in got[::-1]]
    assert texts[0] == "Created fine-tuning job: " + done["id"] and texts[-1] == "The job has successfully completed"
    assert "Files validated, moving job to queued state" in texts and "Fine-tuning job started" in texts
    assert any(re.fullmatch(r"Step 3/10: training loss=\d\.\d\d", t) for t in texts), texts
    assert f"New fine-tuned model created: {done['fine_tuned_model']}" in texts
    steps = [e["data"]["step"] for e in got[::-1] if e["type"] == "metrics"]
    assert steps == list(range(1, 11))
    assert daemon.get(f"{J}/{done['id']}/events?after=ftevent-nothing").json["data"] == []


def test_stream_of_the_past(daemon, done):
    s = daemon.stream("GET", f"{J}/{done['id']}/events?stream=true")
    assert s.status == 200 and s.headers["content-type"] == "text/event-stream"
    events = list(s)
    assert events[0] == {"retry": "2000"} and events[-1] == {"data": "[DONE]"}
    mid = events[1:-1]
    assert all(e["event"] == "fine_tuning.job.event" and json.loads(e["data"])["id"] == e["id"] for e in mid)
    listed = [e["id"] for e in daemon.get(f"{J}/{done['id']}/events?limit=1000").json["data"]][::-1]
    assert [e["id"] for e in mid] == listed
    # continue behind an event, by header or parameter
    for kw in ({"headers": {"Last-Event-ID": listed[4]}}, {}):
        path = f"{J}/{done['id']}/events?stream=true" + ("" if kw else f"&after={listed[4]}")
        rest = [e["id"] for e in daemon.stream("GET", path, **kw) if "id" in e]
        assert rest == listed[5:]
    assert [e["id"] for e in daemon.stream("GET", f"{J}/{done['id']}/events?stream=true", headers={"Last-Event-ID": "unknown"}) if "id" in e] == listed
    # nothing left: 204 stops a browser
    r = daemon.get(f"{J}/{done['id']}/events?stream=true", headers={"Last-Event-ID": listed[-1]})
    assert r.status == 204 and r.body == b""
    r = daemon.request("HEAD", f"{J}/{done['id']}/events?stream=true")
    assert r.status == 200 and r.headers["content-length"] == "0"


def test_live_stream(daemon, model, training_file):
    job = create(daemon, model, training_file)
    got = list(daemon.stream("GET", f"{J}/{job['id']}/events?stream=true"))
    texts = [json.loads(e["data"])["message"] for e in got if "id" in e]
    assert texts[0].startswith("Created fine-tuning job") and texts[-1] == "The job has successfully completed"
    assert [t for t in texts if t.startswith("Step")] and got[-1] == {"data": "[DONE]"}
    listed = [e["id"] for e in daemon.get(f"{J}/{job['id']}/events?limit=1000").json["data"]][::-1]
    assert [e["id"] for e in got if "id" in e] == listed   # each once, in order


def test_checkpoints_and_models(daemon, model, done):
    page = daemon.get(f"{J}/{done['id']}/checkpoints").json
    assert page["object"] == "list" and page["has_more"] is False and len(page["data"]) >= 2
    assert page["first_id"] == page["data"][0]["id"] and page["last_id"] == page["data"][-1]["id"]
    for c in page["data"]:
        assert set(c) >= {"id", "object", "created_at", "fine_tuned_model_checkpoint", "fine_tuning_job_id", "step_number", "metrics"}
        assert c["object"] == "fine_tuning.job.checkpoint" and re.fullmatch("ftckpt_[0-9a-z]{24}", c["id"])
    one = daemon.get(f"{J}/{done['id']}/checkpoints?limit=1").json
    assert one["has_more"] is True and len(one["data"]) == 1
    rest = daemon.get(f"{J}/{done['id']}/checkpoints?after={one['last_id']}").json
    assert [c["id"] for c in one["data"] + rest["data"]] == [c["id"] for c in page["data"]]
    assert page["data"][0]["fine_tuned_model_checkpoint"] == done["fine_tuned_model"]
    ckpt = page["data"][-1]["fine_tuned_model_checkpoint"]
    assert ckpt.endswith(f":ckpt-step-{page['data'][-1]['step_number']}")
    names = [x["id"] for x in daemon.get("/v1/models").json["data"]]
    assert model in names and done["fine_tuned_model"] in names and ckpt in names
    for name in (done["fine_tuned_model"], ckpt, model):
        v = daemon.get("/v1/models/" + name).json
        assert v["id"] == name and v["object"] == "model" and isinstance(v["created"], int) and v["owned_by"]
        r = daemon.post("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "x"}]})
        assert r.status == 200 and r.json["model"] == name
    empty = daemon.get(f"{J}/{done['id']}/checkpoints?after=ftckpt_nothing").json
    assert empty["data"] == [] and empty["first_id"] is None and empty["last_id"] is None
    assert daemon.delete("/v1/models/" + model).status == 400
    assert daemon.get("/v1/adapters").json["data"]


def test_delete_model(daemon, model, training_file):
    name = ended(daemon, create(daemon, model, training_file)["id"])["fine_tuned_model"]
    assert daemon.delete("/v1/models/" + name).json == {"id": name, "object": "model", "deleted": True}
    assert daemon.get("/v1/models/" + name).status == 404
    r = daemon.post("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "x"}]})
    assert r.status == 404 and r.error["param"] == "model"


def test_list(make_daemon):
    d = make_daemon()
    m = d.get("/v1/models").json["data"][0]["id"]
    f = d.upload(chat_lines()).json["id"]
    assert d.get(J).json["data"] == [] and d.get(J).json["has_more"] is False
    ids = [create(d, m, f, metadata={"n": str(i % 2), "all": "x"} if i < 4 else None)["id"] for i in range(6)]
    got, after = [], ""
    while True:
        page = d.get(f"{J}?limit=4" + (f"&after={after}" if after else "")).json
        got += [x["id"] for x in page["data"]]
        if not page["has_more"]:
            break
        after = got[-1]
    assert got == ids[::-1]
    assert [x["id"] for x in d.get(J + "?metadata[n]=1").json["data"]] == [ids[3], ids[1]]
    assert [x["id"] for x in d.get(J + "?metadata[n]=1&metadata[all]=y").json["data"]] == []
    assert [x["id"] for x in d.get(J + "?metadata=null").json["data"]] == [ids[5], ids[4]]
    for i in ids:
        ended(d, i)
    assert {x["id"] for x in d.get(J + "?status=succeeded").json["data"]} == set(ids)
    assert d.get(J + "?status=running").json["data"] == []
    # since: only what changed, oldest change first
    rev = d.get(J + "?since=0").json["revision"]
    assert d.get(f"{J}?since={rev}").json["data"] == []
    new = create(d, m, f)["id"]
    assert [x["id"] for x in d.get(f"{J}?since={rev}").json["data"]] == [new]


def test_etag_of_a_job(make_daemon):
    d = make_daemon(env=SLOW)
    m = d.get("/v1/models").json["data"][0]["id"]
    job = create(d, m, d.upload(chat_lines()).json["id"])
    in_state(d, job["id"], "running")
    tags = set()
    for _ in range(8):
        tags.add(d.get(f"{J}/{job['id']}").headers["etag"])
        time.sleep(0.3)
    assert len(tags) > 2   # progress moves the tag
    v = d.get(f"{J}/{job['id']}").json
    p = v["qlora"]["progress"]
    assert p["total_steps"] == 400 and 0 < p["step"] < 400 and p["train_loss"] > 0 and v["qlora"]["phase"]
    status = d.get("/v1/status").json
    assert status["queue"][0]["id"] == job["id"] and status["queue"][0]["state"] == "running"
    assert d.post(f"{J}/{job['id']}/cancel").json["status"] == "cancelled"
    d.until(lambda: d.get(f"{J}/{job['id']}", headers={"If-None-Match": d.get(f"{J}/{job['id']}").headers["etag"]}).status == 304, 5, "304")


def test_pause_resume_cancel(make_daemon):
    d = make_daemon(env=SLOW)
    m = d.get("/v1/models").json["data"][0]["id"]
    f = d.upload(chat_lines()).json["id"]
    a, b = create(d, m, f)["id"], create(d, m, f)["id"]
    in_state(d, a, "running")
    r = d.post(f"{J}/{a}/pause", {})
    assert r.status == 200 and r.json["qlora"]["state"] in ("pausing", "paused") and r.json["status"] == "paused"
    in_state(d, a, "paused")
    assert d.post(f"{J}/{a}/pause").status == 200   # repeats are harmless
    in_state(d, b, "running")
    assert d.post(f"{J}/{b}/cancel").json["status"] == "cancelled"
    assert d.post(f"{J}/{b}/cancel").json["status"] == "cancelled"
    for what in ("pause", "resume"):
        r = d.post(f"{J}/{b}/{what}")
        assert r.status == 400 and r.error["code"] == "invalid_state"
    assert d.post(f"{J}/{a}/resume").status == 200
    in_state(d, a, "running")
    r = d.delete("/v1/files/" + f)
    assert r.status == 400 and r.error["code"] == "file_in_use"
    assert d.post(f"{J}/{a}/cancel").status == 200
    assert d.delete("/v1/files/" + f).status == 200


def test_validation_faults(make_daemon):
    d = make_daemon(env={"QLORAD_TEST_FAULTS": "1"})
    m = d.get("/v1/models").json["data"][0]["id"]
    job = ended(d, create(d, m, d.upload(chat_lines()).json["id"])["id"])
    assert job["status"] == "failed" and job["error"]["code"] == "invalid_training_file" and job["error"]["param"] == "training_file"
    texts = " ".join(e["message"] for e in d.get(f"{J}/{job['id']}/events?limit=100").json["data"])
    assert "3" in texts and "not JSON" in texts and "7" in texts


def test_repeats(daemon, model, training_file):
    body = {"model": model, "training_file": training_file, "seed": 1}
    key = {"Idempotency-Key": "job-1"}
    before = len(daemon.get(J + "?limit=100").json["data"])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: daemon.post(J, body, headers=key), range(16)))
    assert {r.status for r in got} <= {200, 409} and len({r.json["id"] for r in got if r.status == 200}) == 1
    first = next(r for r in got if r.status == 200)
    again = daemon.post(J, body, headers=key)
    assert again.status == 200 and again.json["id"] == first.json["id"] and again.headers["idempotent-replayed"] == "true"
    r = daemon.post(J, {**body, "seed": 2}, headers=key)
    assert r.status == 422 and r.error["code"] == "idempotency_key_reused"
    # a request that failed leaves nothing behind
    assert daemon.post(J, {"model": model}, headers={"Idempotency-Key": "job-2"}).status == 400
    assert daemon.post(J, body, headers={"Idempotency-Key": "job-2"}).status == 200
    # official clients' retries carry a count
    raw = json.dumps({**body, "seed": 3}).encode()
    h = {"Content-Type": "application/json"}
    a = daemon.post(J, raw, headers=h)
    b = daemon.post(J, raw, headers={**h, "x-stainless-retry-count": "2"})
    assert a.json["id"] == b.json["id"]
    assert len(daemon.get(J + "?limit=100").json["data"]) == before + 3
    for jid in {first.json["id"], a.json["id"]}:
        daemon.post(f"{J}/{jid}/cancel")


def test_exports(daemon, model, done):
    r = daemon.post(E, {"model": done["fine_tuned_model"], "format": "peft"}, headers={"Idempotency-Key": "export-1"})
    assert r.status == 200, r
    x = r.json
    assert x["object"] == "export" and x["status"] in ("queued", "running") and x["finished_at"] is None and x["error"] is None
    assert daemon.post(E, {"model": done["fine_tuned_model"], "format": "peft"}, headers={"Idempotency-Key": "export-1"}).json["id"] == x["id"]
    x = daemon.until(lambda: (lambda v: v if v["status"] == "succeeded" else None)(daemon.get(f"{E}/{x['id']}").json), 20, "export")
    assert x["progress"] == 1 and len(x["files"]) == 1
    f = x["files"][0]
    r = daemon.get(f"{E}/{x['id']}/content?file={f['name']}")
    assert r.status == 200 and len(r.body) == int(r.headers["content-length"]) and hashlib.sha256(r.body).hexdigest() == f["sha256"]
    assert r.headers["etag"] == f'"{f["sha256"]}"' and f["name"] in r.headers["content-disposition"]
    part = daemon.get(f"{E}/{x['id']}/content", headers={"Range": "bytes=3-5"})
    assert part.status == 206 and part.body == r.body[3:6]
    assert daemon.get(f"{E}/{x['id']}/content?file=nothing").status in (400, 404)
    assert daemon.get(f"{E}/{x['id']}/content?file=..%2F..%2Fadmin.token").status in (400, 404)
    assert x["id"] in [e["id"] for e in daemon.get(E).json["data"]]
    assert daemon.delete(f"{E}/{x['id']}").json == {"id": x["id"], "object": "export", "deleted": True}
    assert daemon.get(f"{E}/{x['id']}").status == 404
    r = daemon.post(E, {"model": "nope", "format": "peft"})
    assert r.status in (400, 404) and r.error["param"] == "model"


def test_drain(make_daemon):
    """SIGTERM: event streams end, a running answer is finished, the job goes back to the queue and on after the restart."""
    import signal
    import threading
    d = make_daemon(env={**SLOW, "QLORAD_TEST_TOKENS": "20", "QLORAD_TEST_TOKEN_MS": "100"})
    m = d.get("/v1/models").json["data"][0]["id"]
    job = create(d, m, d.upload(chat_lines()).json["id"])["id"]
    in_state(d, job, "running")
    seen = {}

    def follow():
        seen["events"] = list(d.stream("GET", f"{J}/{job}/events?stream=true"))

    def talk():
        seen["chat"] = d.post("/v1/chat/completions", {"model": m, "messages": [{"role": "user", "content": "x"}]})
    threads = [threading.Thread(target=follow), threading.Thread(target=talk)]
    for t in threads:
        t.start()
    time.sleep(0.5)
    assert d.stop(signal.SIGTERM) == 0
    for t in threads:
        t.join()
    assert seen["chat"].status == 200 and seen["events"][-1] != {"data": "[DONE]"}
    d.start()
    assert d.get(f"{J}/{job}").json["qlora"]["state"] in ("queued", "running")
    in_state(d, job, "running")
    d.post(f"{J}/{job}/cancel")

"""The control process against an engine without a model: states, queue, crashes of either process, drain, repeats, access.

usage: control_test.py QLORAD-CONTROL FAKE-ENGINE [waits | others | name…]      (standard library only)

`waits` are the tests that wait for the 10 s tick, `others` the rest: two programs, so that they can run beside each other.
"""
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback

PROGRAM, ENGINE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
WAIT = 60
LINE = '{"messages":[{"role":"user","content":"q%d"},{"role":"assistant","content":"a"}]}\n'


class Daemon:
    def __init__(self, state, env=None, args=(), ready=True):
        self.state, self.key = state, None
        self.env = {**os.environ, "QLORAD_ENGINE_EXE": ENGINE, "QLORAD_TEST_STEP_MS": "5", **(env or {})}
        self.args = args
        self.start(ready)

    def start(self, ready=True, env=None):
        self.env.update(env or {})
        os.makedirs(self.state, exist_ok=True)
        self.log_path = self.state + ".log"
        self.log = open(self.log_path, "ab")
        at = self.log.tell()
        self.p = subprocess.Popen([PROGRAM, "serve", "--base", "/nonexistent/fake.gguf", "--state-dir", self.state, "--listen",
                                   "127.0.0.1:0", *self.args], env=self.env, stderr=self.log)
        self.port = None
        end = time.time() + WAIT
        while self.port is None and time.time() < end and self.p.poll() is None:
            with open(self.log_path, "rb") as f:
                f.seek(at)
                for line in f.read().decode(errors="replace").splitlines():
                    if "listening on http://127.0.0.1:" in line:
                        self.port = int(line.rsplit(":", 1)[1])
            time.sleep(0.01)
        if self.port is None:
            return
        with open(os.path.join(self.state, "admin.token")) as f:
            self.key = f.read().strip()
        if ready:
            self.until(lambda: self.call("GET", "/readyz")[0] == 200)

    def call(self, method, path, body=None, headers=None, key="admin", raw=False):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        h = dict(headers or {})
        if key is not None:
            h["Authorization"] = "Bearer " + (self.key if key == "admin" else key)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            h.setdefault("Content-Type", "application/json")
        c.request(method, path, body, h)
        r = c.getresponse()
        data = r.read()
        self.headers = {k.lower(): v for k, v in r.getheaders()}
        c.close()
        if raw:
            return r.status, data
        try:
            return r.status, json.loads(data)
        except ValueError:
            return r.status, data

    def ok(self, method, path, body=None, **kw):
        status, data = self.call(method, path, body, **kw)
        assert status == 200, (method, path, status, data)
        return data

    def until(self, condition, what="condition"):
        end = time.time() + WAIT
        while time.time() < end:
            v = condition()
            if v:
                return v
            time.sleep(0.02)
        raise AssertionError("never: " + what)

    def upload(self, n=20, purpose="fine-tune", name="t.jsonl", headers=None, text=None, key="admin"):
        text = "".join(LINE % i for i in range(n)) if text is None else text
        body = ("--B\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n%s\r\n--B\r\nContent-Disposition: form-data; name=\"file\"; "
                "filename=\"%s\"\r\n\r\n%s\r\n--B--\r\n" % (purpose, name, text))
        return self.call("POST", "/v1/files", body, headers={"Content-Type": "multipart/form-data; boundary=B", **(headers or {})}, key=key)

    def file(self, **kw):
        status, data = self.upload(**kw)
        assert status == 200, data
        return data["id"]

    def job(self, file, key="admin", **body):
        return self.ok("POST", "/v1/fine_tuning/jobs", {"model": "fake", "training_file": file, **body}, key=key)["id"]

    def get(self, job):
        return self.ok("GET", "/v1/fine_tuning/jobs/" + job)

    def wait(self, job, *status):
        return self.until(lambda: (lambda j: j if j["status"] in status else None)(self.get(job)), "%s %s" % (job, status))

    def events(self, job):
        out, after = [], None
        while True:
            page = self.ok("GET", "/v1/fine_tuning/jobs/%s/events?limit=7%s" % (job, "&after=" + after if after else ""))
            out += page["data"]
            if not page["has_more"]:
                return out[::-1]
            after = page["data"][-1]["id"]

    def messages(self, job):
        return [e["message"] for e in self.events(job)]

    def engine(self):
        with open("/proc/%d/task/%d/children" % (self.p.pid, self.p.pid)) as f:
            return [int(x) for x in f.read().split()]

    def stop(self, sig=signal.SIGTERM):
        if self.p.poll() is None:
            self.p.send_signal(sig)
        rc = self.p.wait(WAIT)
        self.log.close()
        return rc


def checked_steps(messages, total=10):
    steps = [m.split()[1] for m in messages if m.startswith("Step ")]
    assert steps == ["%d/%d:" % (i, total) for i in range(1, total + 1)], messages


def adapter(d, job):
    with open(os.path.join(d.state, "adapters", job, "adapter_model.safetensors"), "rb") as f:
        return f.read()


# ---- tests: each gets a fresh state directory ----

def test_job(state):
    d = Daemon(state)
    j = d.job(d.file(), suffix="demo", metadata={"a": "b"}, qlora={"rank": 8}, seed=7)
    end = d.wait(j, "succeeded", "failed")
    assert end["status"] == "succeeded" and end["error"] is None and end["seed"] == 7 and end["trained_tokens"] == 200
    assert end["hyperparameters"] == {"n_epochs": 5, "batch_size": 1, "learning_rate_multiplier": 1.0}
    assert end["qlora"]["rank"] == 8 and end["qlora"]["alpha"] == 16 and end["finished_at"] >= end["created_at"]
    m = d.messages(j)
    assert m[0] == "Created fine-tuning job: " + j and m[1].startswith("Validating training file: file-")
    assert m[2] == "Files validated, moving job to queued state" and m[3] == "Fine-tuning job started"
    assert m[-2] == "New fine-tuned model created: " + end["fine_tuned_model"] and m[-1] == "The job has successfully completed"
    checked_steps(m)
    ck = d.ok("GET", "/v1/fine_tuning/jobs/%s/checkpoints" % j)
    assert [c["step_number"] for c in ck["data"]] == [10, 5] and ck["first_id"] == ck["data"][0]["id"]
    assert ck["data"][0]["fine_tuned_model_checkpoint"] == end["fine_tuned_model"]
    assert ck["data"][1]["fine_tuned_model_checkpoint"].endswith(":ckpt-step-5")
    status, csv = d.call("GET", "/v1/files/%s/content" % end["result_files"][0], raw=True)
    assert status == 200 and csv.startswith(b"step,train_loss") and csv.count(b"\n") == 11
    assert adapter(d, j) == b"weights after step 10\n"
    # lists and filters
    other = d.job(d.file(), metadata={"a": "c"})
    d.wait(other, "succeeded")
    ids = lambda q: [x["id"] for x in d.ok("GET", "/v1/fine_tuning/jobs" + q)["data"]]
    assert ids("") == [other, j] and ids("?limit=1") == [other] and ids("?after=" + other) == [j]
    assert ids("?metadata[a]=b") == [j] and ids("?metadata[a]=z") == [] and ids("?after=ftjob-unknown") == []
    assert ids("?status=succeeded") == [other, j] and ids("?status=failed") == []
    since = d.ok("GET", "/v1/fine_tuning/jobs?since=0")
    assert [x["id"] for x in since["data"]] == [j, other] and since["revision"] >= 2
    assert d.ok("GET", "/v1/fine_tuning/jobs?since=%d" % since["revision"])["data"] == []
    # inference with the adapter, continued training, deletion
    chat = {"model": end["fine_tuned_model"], "messages": [{"role": "user", "content": "x"}]}
    assert d.ok("POST", "/v1/chat/completions", chat)["choices"][0]["message"]["content"].startswith("w0")
    third = d.ok("POST", "/v1/fine_tuning/jobs", {"model": ck["data"][1]["fine_tuned_model_checkpoint"], "training_file": d.file()})
    assert third["qlora"]["rank"] == 8
    d.wait(third["id"], "succeeded")
    assert d.stop() == 0


def test_queue(state):
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "30"})
    f = d.file()
    first = d.job(f)
    d.wait(first, "running")
    low, high, gone = d.job(f), d.job(f, qlora={"priority": 5}), d.job(f)
    for j in (low, high, gone):
        d.wait(j, "queued")
    assert d.call("DELETE", "/v1/files/" + f)[1]["error"]["code"] == "file_in_use"
    assert d.ok("POST", "/v1/fine_tuning/jobs/%s/cancel" % gone)["status"] == "cancelled"
    assert d.ok("POST", "/v1/fine_tuning/jobs/%s/cancel" % gone)["status"] == "cancelled"
    for j in (first, low, high):
        d.wait(j, "succeeded")
    started = {j: [e["created_at"] for e in d.events(j) if "started" in e["message"]] for j in (low, high)}
    order = [e["id"] for j in (low, high) for e in d.events(j) if "started" in e["message"]]
    assert order[1] < order[0], started  # ids grow with time: the high priority one was picked first
    status, body = d.call("POST", "/v1/fine_tuning/jobs/%s/cancel" % first)
    assert status == 400 and body["error"]["code"] == "invalid_state"
    assert d.stop() == 0


def test_start_fails(state):
    """A job that cannot be started does not keep the others from starting."""
    d = Daemon(state)
    j = d.job(d.file(), qlora={"auto_start": False, "priority": 5})
    d.wait(j, "paused")
    open(os.path.join(state, "jobs", j), "w").close()  # no directory
    d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % j)
    assert d.wait(j, "failed")["error"]["code"] == "internal_error"
    k = d.job(d.file())
    d.wait(k, "succeeded")
    assert d.stop() == 0


def test_pause(state):
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "150"})
    j = d.job(d.file())
    d.until(lambda: d.get(j)["qlora"].get("progress", {}).get("step", 0) >= 2, "two steps")
    assert d.ok("POST", "/v1/fine_tuning/jobs/%s/pause" % j)["status"] == "paused"
    d.until(lambda: d.get(j)["qlora"]["state"] == "paused")
    assert d.ok("POST", "/v1/fine_tuning/jobs/%s/pause" % j)["qlora"]["pause_reason"] == "user"
    step = d.get(j)["qlora"]["progress"]["step"]
    assert d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % j)["qlora"]["state"] in ("queued", "running")
    d.wait(j, "succeeded")
    m = d.messages(j)
    assert "The job was paused (user)" in m and "The job was resumed" in m and "Fine-tuning job resumed from step %d" % step in m
    checked_steps(m)
    # pausing withdrawn, and cancel while running
    k = d.job(d.file())
    d.wait(k, "running")
    d.ok("POST", "/v1/fine_tuning/jobs/%s/pause" % k)
    d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % k)
    d.wait(k, "succeeded")
    checked_steps(d.messages(k))
    c = d.job(d.file())
    d.wait(c, "running")
    assert d.ok("POST", "/v1/fine_tuning/jobs/%s/cancel" % c)["status"] == "cancelled"
    assert d.messages(c)[-1] == "The job was cancelled"
    h = d.job(d.file(), qlora={"auto_start": False})
    d.wait(h, "paused")
    assert d.get(h)["qlora"]["pause_reason"] == "auto_start" and d.get(h)["hyperparameters"]["n_epochs"] == 5
    d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % h)
    d.wait(h, "succeeded")
    assert d.stop() == 0


def test_engine_dies(state):
    """Killed once at each place: the job goes on from its last checkpoint, with each step told once."""
    for where in ("init", "ready", "validate", "start", "step:3", "step:7", "checkpoint:5", "checkpoint:10", "done"):
        s = os.path.join(state, where.replace(":", "-"))
        d = Daemon(s, {"QLORAD_TEST_DIE": where, "QLORAD_TEST_DIE_MARK": os.path.join(state, where + ".mark")}, ready=False)
        j = d.job(d.file())
        end = d.wait(j, "succeeded", "failed")
        assert end["status"] == "succeeded", (where, end["error"])
        m = d.messages(j)
        checked_steps(m)
        assert m.count("The job has successfully completed") == 1 and len([x for x in m if x.startswith("Checkpoint created")]) == 2, m
        if where in ("step:7", "checkpoint:5"):
            assert "Engine restarted, job continues from step 5" in m and "Fine-tuning job resumed from step 5" in m
        assert adapter(d, j) == b"weights after step 10\n"
        assert d.stop() == 0


def test_engine_keeps_dying(state):
    """Three deaths without a newer checkpoint fail the job; the queue goes on."""
    d = Daemon(state, {"QLORAD_TEST_DIE": "step:7", "QLORAD_TEST_DIE_MARK": state + ".mark", "QLORAD_TEST_DIE_TIMES": "3"})
    a, b = d.job(d.file()), d.job(d.file())
    end = d.wait(a, "failed", "succeeded")
    assert end["status"] == "failed" and end["error"]["code"] == "engine_failure"
    assert end["qlora"]["attempt"] == 3
    d.wait(b, "succeeded")
    assert d.stop() == 0
    d = Daemon(os.path.join(state, "v"), {"QLORAD_TEST_DIE": "validate", "QLORAD_TEST_DIE_MARK": state + ".v", "QLORAD_TEST_DIE_TIMES": "3"})
    c = d.job(d.file())
    assert d.wait(c, "failed", "succeeded")["error"]["code"] == "engine_failure"
    assert d.stop() == 0


def test_control_dies(state):
    """SIGKILL of control at many moments: nothing lost, nothing twice, the same bytes."""
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "20", "QLORAD_TEST_STEPS": "30"})
    j = d.job(d.file(), qlora={"save_total_limit": 2})
    for i in range(8):
        time.sleep(0.03 + 0.05 * i)
        d.stop(signal.SIGKILL)
        d.start()
    d.wait(j, "succeeded")
    m = d.messages(j)
    checked_steps(m, 30)
    assert m.count("The job has successfully completed") == 1
    assert adapter(d, j) == b"weights after step 30\n"
    kept = sorted(x for x in os.listdir(os.path.join(d.state, "jobs", j)) if x.startswith("step-"))
    listed = [c["step_number"] for c in d.ok("GET", "/v1/fine_tuning/jobs/%s/checkpoints" % j)["data"]]
    assert listed == [30, 25], listed
    d.until(lambda: sorted(x for x in os.listdir(os.path.join(d.state, "jobs", j)) if x.startswith("step-")) == ["step-25", "step-30"], kept)
    assert len(d.ok("GET", "/v1/fine_tuning/jobs")["data"]) == 1
    assert d.stop() == 0
    assert subprocess.run([PROGRAM, "check", "--state-dir", state], capture_output=True).stdout == b"ok\n"


def test_drain(state):
    """SIGTERM: the job is at a snapshot, back in the queue, and goes on after the next start."""
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "150", "QLORAD_TEST_SAVE": "50"})
    j = d.job(d.file())
    d.until(lambda: d.get(j)["qlora"].get("progress", {}).get("step", 0) >= 3, "three steps")
    assert d.stop() == 0
    assert not os.path.exists(os.path.join(state, "qlorad.db-wal")) or os.path.getsize(os.path.join(state, "qlorad.db-wal")) == 0
    d.start()
    d.wait(j, "succeeded")
    m = d.messages(j)
    checked_steps(m)
    assert any(x.startswith("The server is shutting down; the job goes on from step ") for x in m)
    assert any(x.startswith("Fine-tuning job resumed from step ") for x in m), m
    # a second control is kept out
    p = subprocess.run([PROGRAM, "serve", "--base", "x", "--state-dir", state, "--listen", "127.0.0.1:0"], capture_output=True, timeout=WAIT)
    assert p.returncode == 1 and b"in use by another" in p.stderr, p
    assert d.stop(signal.SIGINT) == 0


def test_damaged_checkpoint(state):
    """What does not read back is put aside and the one before it taken; what belongs to another base or recipe takes nothing away."""
    env = {"QLORAD_TEST_STEP_MS": "40", "QLORAD_TEST_SAVE": "5", "QLORAD_TEST_STEPS": "30"}
    d = Daemon(state, env)
    jobs = [d.job(d.file()), d.job(d.file())]
    newest = {}
    for j in jobs:
        d.until(lambda: d.get(j)["qlora"].get("progress", {}).get("step", 0) >= 12, "steps")
        d.ok("POST", "/v1/fine_tuning/jobs/%s/pause" % j)
        d.until(lambda: d.get(j)["qlora"]["state"] == "paused")
        newest[j] = max(int(x[5:]) for x in os.listdir(os.path.join(state, "jobs", j)) if x.startswith("step-"))
    a, b = jobs
    d.stop()
    d.start(env={"QLORAD_TEST_DAMAGED": "step-%d" % newest[a]})
    d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % a)
    assert d.wait(a, "succeeded", "failed")["error"] is None
    m = d.messages(a)
    checked_steps(m, 30)
    assert [x for x in m if x.startswith("The checkpoint of step %d is damaged" % newest[a])] and "Fine-tuning job resumed from step 10" in m, m
    d.stop()
    d.env.pop("QLORAD_TEST_DAMAGED")
    d.start(env={"QLORAD_TEST_FAIL_START": "checkpoint_invalid"})
    d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % b)
    assert d.wait(b, "failed")["error"]["code"] == "checkpoint_invalid"
    d.stop()
    d.env.pop("QLORAD_TEST_FAIL_START")
    d.start()
    assert [c["step_number"] for c in d.ok("GET", "/v1/fine_tuning/jobs/%s/checkpoints" % b)["data"]] == [10, 5]
    assert {"step-5", "step-10"} <= set(os.listdir(os.path.join(state, "jobs", b)))
    assert d.stop() == 0


def test_another_device(state):
    """A job that goes on somewhere else says so, once; more threads or another card of a kind are not somewhere else."""
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "60", "QLORAD_TEST_SAVE": "100", "QLORAD_TEST_STEPS": "30", "QLORAD_TEST_DEVICE": "cpu: 2 threads, avx2"})
    j = d.job(d.file())
    said = lambda: [m for m in d.messages(j) if "may differ in rounding" in m]
    for n, device, exact, times in ((2, "cpu: 8 threads, avx2", True, 0), (4, "cuda:0 H100", False, 1), (6, "cuda:1 H100", False, 1)):
        d.until(lambda: d.get(j)["qlora"].get("progress", {}).get("step", 0) >= n, "steps")
        assert d.stop() == 0
        d.start(env={"QLORAD_TEST_DEVICE": device})
        d.until(lambda: d.get(j)["qlora"]["fingerprint"]["device"] == device, "started again")
        assert d.get(j)["qlora"]["fingerprint"]["exact_resume"] is exact and len(said()) == times, (device, said())
    d.wait(j, "succeeded")
    checked_steps(d.messages(j), 30)
    assert d.get(j)["qlora"]["fingerprint"]["exact_resume"] is False
    assert d.stop() == 0


def test_snapshots(state):
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "40", "QLORAD_TEST_SAVE": "100", "QLORAD_TEST_STEPS": "60"})
    j = d.job(d.file())
    for n in (1, 3, 5, 7):
        d.until(lambda: d.get(j)["qlora"].get("progress", {}).get("step", 0) >= n, "step")
        d.ok("POST", "/v1/fine_tuning/jobs/%s/pause" % j)
        d.until(lambda: d.get(j)["qlora"]["state"] == "paused")
        d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % j)
    left = lambda: [x for x in os.listdir(os.path.join(state, "jobs", j)) if x.startswith("step-")]
    d.until(lambda: len(left()) <= 2, "two snapshots kept")
    d.wait(j, "succeeded")
    d.until(lambda: left() == ["step-60"], "snapshots gone")
    assert [c["step_number"] for c in d.ok("GET", "/v1/fine_tuning/jobs/%s/checkpoints" % j)["data"]] == [60]
    assert d.stop() == 0


def test_snapshots_of_ended_jobs(state):
    """Cancelled or failed, a job keeps its user's checkpoints only."""
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "40", "QLORAD_TEST_SAVE": "6", "QLORAD_TEST_STEPS": "60"})
    left = lambda j: sorted(x for x in os.listdir(os.path.join(state, "jobs", j)) if x.startswith("step-"))
    jobs = [d.job(d.file()), d.job(d.file())]
    for j in jobs:
        d.until(lambda: d.get(j)["qlora"].get("progress", {}).get("step", 0) >= 7, "step 7")
        d.ok("POST", "/v1/fine_tuning/jobs/%s/pause" % j)
        d.until(lambda: d.get(j)["qlora"]["state"] == "paused")
        assert len(left(j)) == 2 and "step-6" in left(j), left(j)
    d.ok("POST", "/v1/fine_tuning/jobs/%s/cancel" % jobs[0])
    d.until(lambda: left(jobs[0]) == ["step-6"], "snapshot of the cancelled job")
    d.stop()
    d.start(env={"QLORAD_TEST_DIE": "start"})
    d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % jobs[1])
    assert d.wait(jobs[1], "failed")["error"]["code"] == "engine_failure"
    d.until(lambda: left(jobs[1]) == ["step-6"], "snapshot of the failed job")
    assert d.stop() == 0


def test_cancel_comes_late(state):
    """What the engine finished writing before it heard of a cancel is removed; what had been listed stays."""
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "30", "QLORAD_TEST_SAVE": "5", "QLORAD_TEST_STEPS": "15", "QLORAD_TEST_DEAF": "1"})
    j = d.job(d.file())
    d.until(lambda: len(d.ok("GET", "/v1/fine_tuning/jobs/%s/checkpoints" % j)["data"]) == 1, "a checkpoint")
    d.ok("POST", "/v1/fine_tuning/jobs/%s/cancel" % j)
    k = d.job(d.file())  # told about after all that the first one wrote
    d.wait(k, "succeeded")
    d.until(lambda: os.listdir(os.path.join(state, "adapters")) == [k], "the adapter of nobody")
    d.until(lambda: [x for x in os.listdir(os.path.join(state, "jobs", j)) if x.startswith("step-")] == ["step-5"], "checkpoints of nobody")
    assert d.get(j)["status"] == "cancelled"
    assert d.stop() == 0


def test_faults(state):
    d = Daemon(state, {"QLORAD_TEST_FAULTS": "1"})
    j = d.job(d.file())
    end = d.wait(j, "failed")
    assert end["error"] == {"code": "invalid_training_file", "message": "2 bad lines", "param": "training_file"}
    m = d.messages(j)
    assert m[-3:] == ["Line 3: not JSON", "Line 7: no messages", "The job failed: invalid_training_file"], m
    d.stop()
    d.env.pop("QLORAD_TEST_FAULTS")
    d.start()
    k = d.job(d.file(n=9))
    assert d.wait(k, "failed")["error"]["code"] == "invalid_n_examples"
    d.stop()
    d.start(env={"QLORAD_TEST_FAIL": "non_finite_loss"})
    k = d.job(d.file())
    assert d.wait(k, "failed")["error"]["code"] == "non_finite_loss"
    d.stop()
    d.start(env={"QLORAD_TEST_MESSAGE": "x" + "\u20ac" * 400})  # kept whole, shown cut, between two characters
    k = d.job(d.file())
    shown = d.wait(k, "failed")["error"]["message"]
    assert 150 < len(shown) < 400 and shown == "x" + "\u20ac" * (len(shown) - 1), shown
    d.stop()
    d.env.pop("QLORAD_TEST_MESSAGE")
    d.start(env={"QLORAD_TEST_FAIL": "no_space"})
    k = d.job(d.file())
    d.until(lambda: "The job was paused (no_space)" in d.messages(k), "pause for space")
    l = d.job(d.file())
    d.until(lambda: "The job was paused (no_space)" in d.messages(l), "pause for space")
    before = d.get(l)["qlora"]["revision"]
    held = d.ok("POST", "/v1/fine_tuning/jobs/%s/pause" % l)["qlora"]  # the user's word: it does not go on by itself any more
    assert held["pause_reason"] == "user" and held["revision"] > before
    d.stop()
    d.env.pop("QLORAD_TEST_FAIL")
    d.start()  # there is space: it goes on by itself
    d.wait(k, "succeeded")
    assert d.get(l)["qlora"]["state"] == "paused"
    assert d.stop() == 0


def test_engine_settings(state):
    d = Daemon(state, {"QLORAD_TEST_EXIT": "64"}, ready=False)
    assert d.p.wait(WAIT) == 64
    g = Daemon(os.path.join(state, "g"), {"QLORAD_TEST_EXIT": "70"}, ready=False)
    s = g.until(lambda: (lambda x: x if x["engine"]["restarts"] >= 2 else None)(g.ok("GET", "/v1/status")), "restarts")
    assert s["engine"]["last_exit"].startswith("exit code 70") and s["engine"]["state"] != "ready"
    status, body = g.call("POST", "/v1/chat/completions", {"model": "fake", "messages": [{"role": "user", "content": "x"}]})
    assert status == 503 and body["error"]["code"] in ("engine_unavailable", "loading") and int(g.headers["retry-after"]) > 0
    assert g.call("GET", "/readyz")[0] == 503 and g.call("GET", "/livez")[0] == 200
    j = g.job(g.file())  # the API works without an engine
    assert g.get(j)["status"] == "validating_files"
    assert g.stop() == 0
    b = Daemon(os.path.join(state, "b"), {"QLORAD_TEST_GARBAGE": "1"}, ready=False)
    b.until(lambda: b.ok("GET", "/v1/status")["engine"]["restarts"] >= 1, "broken frame ends the engine")
    assert b.stop() == 0
    s = Daemon(os.path.join(state, "s"), {"QLORAD_TEST_SHORT_CSV": "1", "QLORAD_TEST_STEP_MS": "1"})  # says what is not so about its file
    assert s.wait(s.job(s.file()), "failed")["error"]["code"] == "engine_failure"
    assert [x for x in os.listdir(os.path.join(state, "s", "files")) if os.path.getsize(os.path.join(state, "s", "files", x)) == 0] == []
    assert s.stop() == 0


def test_requests_and_death(state):
    d = Daemon(state, {"QLORAD_TEST_TOKENS": "1000", "QLORAD_TEST_TOKEN_MS": "20"})
    out = []
    chat = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
    t = [threading.Thread(target=lambda: out.append(d.call("POST", "/v1/chat/completions", chat))) for _ in range(4)]
    for x in t:
        x.start()
    time.sleep(0.5)
    for pid in d.engine():
        os.kill(pid, signal.SIGKILL)
    for x in t:
        x.join(WAIT)
    assert [s for s, _ in out] == [503] * 4 and all(b["error"]["code"] == "engine_unavailable" for _, b in out), out
    d.until(lambda: d.call("GET", "/readyz")[0] == 200, "a new engine")
    assert d.stop() == 0


def test_descriptors(state):
    """An engine gets its five descriptors and none of the clients', the store's or the listeners'."""
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "100"})
    d.wait(d.job(d.file()), "running")
    clients = [socket.create_connection(("127.0.0.1", d.port)) for _ in range(5)]
    for _ in range(2):
        pid = d.engine()[0]
        assert {int(x) for x in os.listdir("/proc/%d/fd" % pid)} <= {0, 1, 2, 3, 4}
        os.kill(pid, signal.SIGKILL)
        d.until(lambda: d.engine() not in ([], [pid]) and d.call("GET", "/readyz")[0] == 200, "a new engine, with clients about")
    for c in clients:
        c.close()
    assert d.stop() == 0


def test_status_tag(state):
    """304 while nothing changes; the engine's death and its return are changes, though no job has any part in them."""
    d = Daemon(state)
    s = d.ok("GET", "/v1/status")
    tag = d.headers["etag"]
    look = lambda: d.call("GET", "/v1/status", headers={"If-None-Match": tag})
    assert look()[0] == 304 and s["engine"]["state"] == "ready"
    for pid in d.engine():
        os.kill(pid, signal.SIGKILL)
    status, s = d.until(lambda: (lambda r: r if r[0] != 304 else None)(look()), "the engine's death is shown")
    assert status == 200 and s["engine"]["restarts"] == 1 and s["engine"]["state"] != "ready"
    tag = d.headers["etag"]
    d.until(lambda: (lambda r: r[0] == 200 and r[1]["engine"]["state"] == "ready")(look()), "its return is shown")
    assert d.stop() == 0


def test_repeats(state):
    d = Daemon(state)
    f = d.file()
    body = json.dumps({"model": "fake", "training_file": f})
    post = lambda key, text=body, **h: d.call("POST", "/v1/fine_tuning/jobs", text, headers={
        "Content-Type": "application/json", **({"Idempotency-Key": key} if key else {}), **h})
    status, first = post("k1")
    assert status == 200 and "idempotent-replayed" not in d.headers
    status, again = post("k1")
    assert status == 200 and again == first and d.headers["idempotent-replayed"] == "true"
    status, other = post("k1", body.replace("}", ', "seed": 1}'))
    assert status == 422 and other["error"]["code"] == "idempotency_key_reused"
    status, b = post("bad", "{}")  # failed before the commit: leaves nothing
    assert status == 400
    assert post("bad")[0] == 200
    plain = post(None)[1]["id"]
    assert post(None, **{"x-stainless-retry-count": "1"})[1]["id"] == plain
    assert post(None, **{"x-stainless-retry-count": "0"})[1]["id"] != plain
    d.stop()
    d.start()
    assert post("k1")[1] == first
    one = d.upload(headers={"Idempotency-Key": "u"})[1]
    assert d.upload(headers={"Idempotency-Key": "u"})[1] == one
    assert d.upload(headers={"Idempotency-Key": "u"}, n=21)[0] == 422
    assert len(os.listdir(os.path.join(state, "files"))) >= 2
    assert not [x for x in os.listdir(os.path.join(state, "files")) if ".tmp" in x]
    assert d.stop() == 0


def test_models_tag(state):
    """A tag of the list of models does not outlive the base that it shows."""
    d = Daemon(state, args=("--model-name", "one"))
    d.ok("GET", "/v1/models")
    tag = d.headers["etag"]
    assert d.call("GET", "/v1/models", headers={"If-None-Match": tag})[0] == 304
    d.stop()
    d.args = ("--model-name", "two")
    time.sleep(1)  # tags begin with the second of the start
    d.start()
    status, b = d.call("GET", "/v1/models", headers={"If-None-Match": tag})
    assert status == 200 and b["data"][0]["id"] == "two"
    assert d.stop() == 0
    # and the first load of a base adds its facts
    e = Daemon(os.path.join(state, "e"), {"QLORAD_TEST_HANG": "init"}, ready=False)
    assert "max_model_len" not in e.ok("GET", "/v1/models")["data"][0]
    tag = e.headers["etag"]
    e.env.pop("QLORAD_TEST_HANG")
    assert e.call("GET", "/v1/models", headers={"If-None-Match": tag})[0] == 304
    e.stop(signal.SIGKILL)
    e.start()
    assert e.call("GET", "/v1/models", headers={"If-None-Match": tag})[1]["data"][0]["max_model_len"] == 2048
    assert e.stop() == 0


def test_import_repeats(state):
    """An import whose answer was lost can be sent again, also after a restart."""
    d = Daemon(state)
    f = d.file(name="a.tar", purpose="user_data")
    load = lambda key, **more: d.call("POST", "/v1/load_lora_adapter", {"lora_name": "own", "lora_path": f, **more},
                                      headers={"Idempotency-Key": key} if key else {}, raw=True)
    said = b"Success: LoRA adapter 'own' added successfully."
    assert load("k") == (200, said) and "idempotent-replayed" not in d.headers
    assert load("k") == (200, said) and d.headers["idempotent-replayed"] == "true"
    status, b = load("k", load_inplace=True)
    assert status == 422 and json.loads(b)["error"]["code"] == "idempotency_key_reused"
    status, b = load(None)
    assert status == 400 and json.loads(b)["error"]["param"] == "lora_name" and b"loaded already" in b
    d.stop()
    d.start()
    assert load("k") == (200, said) and d.headers["idempotent-replayed"] == "true"
    assert load("l", load_inplace=True)[0] == 200
    d.until(lambda: len(os.listdir(os.path.join(state, "adapters"))) == 1, "the replaced one is gone")
    assert [a["id"] for a in d.ok("GET", "/v1/adapters")["data"]] == ["own"]
    # an engine that dies in an import leaves nothing behind
    d.stop()
    d.start(env={"QLORAD_TEST_DIE": "import"})
    status, b = load("m", load_inplace=True)
    assert status == 503 and json.loads(b)["error"]["code"] == "engine_unavailable"
    d.until(lambda: len(os.listdir(os.path.join(state, "adapters"))) == 1, "nothing half done")
    assert d.stop() == 0


def test_quota(state):
    """The limit holds for what an upload brings, not only for what is there before it; a repeat is no new file."""
    d = Daemon(state, args=("--max-file-bytes", "4000", "--max-files", "3"))
    line = LINE % 0
    first = d.upload(text=line * 30, headers={"Idempotency-Key": "k"})
    assert first[0] == 200 and 2000 < first[1]["bytes"] < 3000, first
    for text, want in ((line * 30, 429), (line * 10, 200), (line * 20, 429)):
        status, b = d.upload(text=text)
        assert status == want, (len(text), status, b)
        if want == 429:
            assert b["error"]["code"] == "quota_exceeded" and d.headers["x-should-retry"] == "false"
    assert d.upload(text=line * 30, headers={"Idempotency-Key": "k"})[1] == first[1]
    assert d.upload(text=line)[0] == 200 and d.upload(text=line)[1]["error"]["code"] == "quota_exceeded"  # the fourth file
    assert len(os.listdir(os.path.join(state, "files"))) == 3 and len(d.ok("GET", "/v1/files")["data"]) == 3
    d.ok("DELETE", "/v1/files/" + first[1]["id"])
    assert d.upload(text=line * 20)[0] == 200
    assert d.stop() == 0


def test_access(state):
    d = Daemon(state)
    token = lambda *a: subprocess.run([PROGRAM, "token", *a, "--state-dir", state], capture_output=True, text=True)
    assert os.stat(os.path.join(state, "admin.token")).st_mode & 0o777 == 0o600
    for key in (None, "", "qlo_", "qlo_" + "x" * 43, "nonsense"):
        status, b = d.call("GET", "/v1/models", key=key)
        assert status == 401 and b["error"]["code"] == "invalid_api_key" and b["error"]["message"] == "Incorrect API key provided."
    infer = token("add", "--scopes", "infer").stdout.strip()
    assert d.call("GET", "/v1/models", key=infer)[0] == 200
    status, b = d.call("GET", "/v1/files", key=infer)
    assert status == 403 and b["error"]["code"] == "insufficient_scope"
    one, two = (token("add", "--project", p).stdout.strip() for p in ("one", "two"))
    f = d.file(key=one)
    j = d.job(f, key=one)
    for key, want in ((one, 200), (two, 404), ("admin", 200)):
        assert d.call("GET", "/v1/files/" + f, key=key)[0] == want
        assert d.call("GET", "/v1/fine_tuning/jobs/" + j, key=key)[0] == want
        assert d.call("GET", "/v1/fine_tuning/jobs/%s/events" % j, key=key)[0] == want
    missing = d.call("GET", "/v1/fine_tuning/jobs/ftjob-" + "0" * 24, key=two)
    foreign = d.call("GET", "/v1/fine_tuning/jobs/" + j, key=two)
    assert missing[0] == foreign[0] and missing[1]["error"]["message"].replace("0" * 24, "") == foreign[1]["error"]["message"].replace(j[6:], "")
    assert d.call("POST", "/v1/fine_tuning/jobs", {"model": "fake", "training_file": f}, key=two)[1]["error"]["param"] == "training_file"
    assert d.ok("GET", "/v1/fine_tuning/jobs", key=two)["data"] == []
    listed = json.loads(token("list").stdout)
    assert len(listed) == 4 and "qlo_" not in json.dumps(listed)
    gone = [t["id"] for t in listed if t["project"] == "two"][0]
    assert token("revoke", gone).returncode == 0 and token("revoke", "key-none").returncode == 1
    assert d.call("GET", "/v1/models", key=two)[0] == 401
    assert token("add", "--scopes", "x").returncode == 1 and token("add", "--project", "a b").returncode == 1
    for _ in range(30):
        status, b = d.call("GET", "/v1/models", key="qlo_" + "y" * 43)
    assert status == 429 and d.headers["retry-after"] == "60" and d.headers["x-should-retry"] == "false"
    d.stop()
    used = {t["project"]: t["last_used"] for t in json.loads(token("list").stdout) if t["scopes"] != "i"}
    assert all(time.time() - 180 < used[p] <= time.time() for p in ("default", "one", "two")), used
    with open(d.log_path, "rb") as f:
        assert b"qlo_" not in f.read()
    d.args = ("--no-auth",)
    d.start(ready=False)
    d.until(lambda: d.call("GET", "/readyz")[0] == 200)
    assert d.call("GET", "/v1/models", key=None)[0] == 200
    assert d.stop() == 0


def test_exports(state):
    d = Daemon(state, {"QLORAD_TEST_DIE": "export", "QLORAD_TEST_DIE_MARK": state + ".mark"})
    j = d.job(d.file(), suffix="x")
    model = d.wait(j, "succeeded")["fine_tuned_model"]
    x = d.ok("POST", "/v1/exports", {"model": model, "format": "gguf", "quantization": "q8_0"})
    assert x["status"] in ("queued", "running") and x["quantization"] == "q8_0"
    got = d.until(lambda: (lambda e: e if e["status"] == "succeeded" else None)(d.ok("GET", "/v1/exports/" + x["id"])), "export")
    assert got["files"][0]["bytes"] == 23 and got["progress"] == 1.0 and got["expires_at"] > got["finished_at"]
    status, data = d.call("GET", "/v1/exports/%s/content" % x["id"], raw=True)
    assert status == 200 and data == b"weights after step 99\n", data
    for body, param in (({}, "model"), ({"model": model}, "format"), ({"model": model, "format": "onnx"}, "format"),
                        ({"model": model, "format": "gguf", "quantization": "q5_0"}, "quantization"),
                        ({"model": model, "format": "gguf", "quantization": 4}, "quantization"),
                        ({"model": model, "format": "peft", "quantization": "f16"}, "quantization"),
                        ({"model": model, "format": "gguf_lora", "quantization": "q8_0"}, "quantization"),
                        ({"model": "fake", "format": "peft"}, "model"),
                        ({"model": model, "format": "gguf", "merge_base": "nf4"}, "merge_base"), ({"model": model, "format": "peft", "merge_base": "original"}, "merge_base")):
        status, b = d.call("POST", "/v1/exports", body)
        assert status == 400 and b["error"]["param"] == param, (body, b)
    assert d.call("POST", "/v1/exports", {"model": "ft:none", "format": "gguf"})[0] == 404
    assert d.ok("DELETE", "/v1/exports/" + x["id"])["deleted"] is True
    d.until(lambda: os.listdir(os.path.join(state, "exports")) == [], "files gone")
    assert d.call("GET", "/v1/exports/" + x["id"])[0] == 404
    assert d.stop() == 0


def test_export_under_way(state):
    """A checkpoint stays while an export reads it; a running export ends by DELETE, and goes back to the queue at a drain."""
    hold = state + ".go"
    d = Daemon(state, {"QLORAD_TEST_EXPORT_HOLD": hold, "QLORAD_TEST_STEPS": "40", "QLORAD_TEST_STEP_MS": "30"})
    j = d.job(d.file(), qlora={"save_total_limit": 1})
    names = lambda: [c["fine_tuned_model_checkpoint"] for c in d.ok("GET", "/v1/fine_tuning/jobs/%s/checkpoints" % j)["data"]]
    first = d.until(names, "a checkpoint")[-1]
    x = d.ok("POST", "/v1/exports", {"model": first, "format": "gguf"})["id"]
    export = lambda: d.ok("GET", "/v1/exports/" + x)
    d.until(lambda: export()["status"] == "running" and export()["progress"] == 0.5, "running")
    d.wait(j, "succeeded")
    step = "step-" + first.rsplit("-", 1)[1]
    assert first in names() and step in os.listdir(os.path.join(state, "jobs", j)), (first, names())
    # another one is cancelled while it waits, and this one by a drain
    y = d.ok("POST", "/v1/exports", {"model": first, "format": "gguf"})["id"]
    assert d.ok("DELETE", "/v1/exports/" + y)["deleted"] and export()["status"] == "running"
    assert d.stop() == 0
    d.start()
    d.until(lambda: export()["status"] == "running", "running again")
    z = d.ok("POST", "/v1/exports", {"model": first, "format": "gguf"})["id"]
    assert d.ok("DELETE", "/v1/exports/" + x)["deleted"] is True
    d.until(lambda: d.ok("GET", "/v1/exports/" + z)["status"] == "running", "the next one")
    open(hold, "w").close()
    d.until(lambda: d.ok("GET", "/v1/exports/" + z)["status"] == "succeeded", "done")
    assert os.listdir(os.path.join(state, "exports")) == [z]
    # deleted, and the engine dies before it ends it: what it was writing goes too
    os.unlink(hold)
    v = d.ok("POST", "/v1/exports", {"model": first, "format": "gguf"})["id"]
    d.until(lambda: d.ok("GET", "/v1/exports/" + v)["status"] == "running", "running")
    os.mkdir(os.path.join(state, "exports", v + ".tmp"))
    os.kill(d.engine()[0], signal.SIGSTOP)
    d.ok("DELETE", "/v1/exports/" + v)
    os.kill(d.engine()[0], signal.SIGKILL)
    d.until(lambda: os.listdir(os.path.join(state, "exports")) == [z], "nothing half done")
    assert d.stop() == 0


def test_admin_of_all_projects(state):
    """What an admin may name, it may export and train on, though it belongs to another project."""
    d = Daemon(state)
    one = subprocess.run([PROGRAM, "token", "add", "--project", "one", "--state-dir", state], capture_output=True, text=True).stdout.strip()
    j = d.job(d.file(key=one), key=one)
    model = d.wait(j, "succeeded")["fine_tuned_model"]
    x = d.ok("POST", "/v1/exports", {"model": model, "format": "gguf"})["id"]
    d.until(lambda: d.ok("GET", "/v1/exports/" + x)["status"] in ("succeeded", "failed"), "export")
    assert d.ok("GET", "/v1/exports/" + x)["status"] == "succeeded"
    assert d.call("GET", "/v1/exports/" + x, key=one)[0] == 404  # it is the admin's
    k = d.job(d.file(), model=model)
    assert d.wait(k, "succeeded", "failed")["error"] is None
    two = subprocess.run([PROGRAM, "token", "add", "--project", "two", "--state-dir", state], capture_output=True, text=True).stdout.strip()
    assert d.call("POST", "/v1/exports", {"model": model, "format": "gguf"}, key=two)[0] == 404
    assert d.stop() == 0


def test_stream(state):
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "30"})
    j = d.job(d.file())
    c = http.client.HTTPConnection("127.0.0.1", d.port, timeout=WAIT)
    c.request("GET", "/v1/fine_tuning/jobs/%s/events?stream=true" % j, headers={"Authorization": "Bearer " + d.key})
    r = c.getresponse()
    text = r.read().decode()
    c.close()
    seen = [json.loads(x[6:])["id"] for x in text.splitlines() if x.startswith("data: {")]
    assert seen == [e["id"] for e in d.events(j)] and text.rstrip().endswith("data: [DONE]")
    status, rest = d.call("GET", "/v1/fine_tuning/jobs/%s/events?stream=true" % j, headers={"Last-Event-ID": seen[-1]}, raw=True)
    assert status == 204, (status, rest)
    # from an event that was thinned out meanwhile: what comes after it, no more and no less
    with contextlib.closing(sqlite3.connect(os.path.join(state, "qlorad.db"), timeout=10)) as db, db:
        assert db.execute("DELETE FROM events WHERE id = ?", (seen[6],)).rowcount == 1
    status, rest = d.call("GET", "/v1/fine_tuning/jobs/%s/events?stream=true" % j, headers={"Last-Event-ID": seen[6]}, raw=True)
    assert [json.loads(x[6:])["id"] for x in rest.decode().splitlines() if x.startswith("data: {")] == seen[7:]
    page = d.ok("GET", "/v1/fine_tuning/jobs/%s/events?after=%s" % (j, seen[6]))
    assert [e["id"] for e in page["data"]] == seen[5::-1]
    assert d.ok("GET", "/v1/fine_tuning/jobs/%s/events?after=ftevent-nonsense" % j)["data"] == []
    assert d.stop() == 0


def test_leftovers(state):
    """What no row names is swept at start; a row without bytes is forgotten."""
    d = Daemon(state)
    j = d.job(d.file())
    d.wait(j, "succeeded")
    f = d.file()
    d.stop()
    for path in ("files/file-x.tmp.1.1", "files/stray"):
        open(os.path.join(state, path), "w").close()
    for path in ("jobs/ftjob-stray/step-1", "adapters/stray", "exports/stray", "jobs/%s/step-99" % j, "jobs/%s/step-7.tmp" % j):
        os.makedirs(os.path.join(state, path))
    os.unlink(os.path.join(state, "files", f))
    shutil.rmtree(os.path.join(state, "jobs", j, "step-5"))
    d.start()
    assert "stray" not in str([os.listdir(os.path.join(state, x)) for x in ("files", "jobs", "adapters", "exports")])
    assert sorted(os.listdir(os.path.join(state, "jobs", j))) == ["step-10"]  # the metrics have become a file object
    assert d.call("GET", "/v1/files/" + f)[0] == 404
    assert [c["step_number"] for c in d.ok("GET", "/v1/fine_tuning/jobs/%s/checkpoints" % j)["data"]] == [10]
    assert d.stop() == 0


def test_limits_of_rows(state):
    """Messages of one job: the newest 10,000; adapters: 10,000, then new jobs and imports are refused."""
    d = Daemon(state)
    j = d.job(d.file(), qlora={"auto_start": False})
    d.wait(j, "paused")
    assert d.stop() == 0
    with contextlib.closing(sqlite3.connect(os.path.join(state, "qlorad.db"), timeout=10)) as db, db:
        first = db.execute("SELECT max(seq) FROM events").fetchone()[0] + 1
        db.executemany("INSERT INTO events (seq, id, job, created_at, level, message, type, data) VALUES (?, ?, ?, 1, 'info', 'x', 'message', '{}')",
                       (((first + i), "ftevent-%024d" % i, j) for i in range(10000)))
        db.executemany("INSERT INTO models (name, project, job, base_model, dir, manifest_sha256, bytes, rank, alpha, created_at)"
                       " VALUES (?, 'default', '', 'fake', 'adapters/none', '', 1, 1, 1, 1)", (("a%d" % i,) for i in range(9999)))
    d.start()
    d.ok("POST", "/v1/fine_tuning/jobs/%s/resume" % j)
    d.wait(j, "succeeded")  # the 10,000th
    with contextlib.closing(sqlite3.connect(os.path.join(state, "qlorad.db"), timeout=10)) as db:
        kinds = dict(db.execute("SELECT type, count(*) FROM events WHERE job = ? GROUP BY type", (j,)).fetchall())
        assert kinds == {"message": 10000, "metrics": 10}
    assert d.ok("GET", "/v1/fine_tuning/jobs/%s/events?limit=1" % j)["data"][0]["message"] == "The job has successfully completed"
    f = d.file()
    status, body = d.call("POST", "/v1/fine_tuning/jobs", {"model": "fake", "training_file": f})
    assert status == 429 and body["error"]["code"] == "queue_full" and "delete" in body["error"]["message"]
    status, body = d.call("POST", "/v1/load_lora_adapter", {"lora_name": "one-more", "lora_path": f})
    assert status == 429 and body["error"]["code"] == "queue_full"
    d.ok("DELETE", "/v1/models/a7")
    assert d.job(f)
    assert d.stop() == 0


def test_file_in_place_of_a_jobs_directory(state):
    """It stops no start: it makes room, the checkpoints it stood for are forgotten, and the job runs."""
    d = Daemon(state, {"QLORAD_TEST_STEP_MS": "50"})
    j = d.job(d.file())
    d.until(lambda: len(d.ok("GET", "/v1/fine_tuning/jobs/%s/checkpoints" % j)["data"]) == 1, "a checkpoint")
    assert d.stop() == 0
    path = os.path.join(state, "jobs", j)
    os.rename(path, path + ".gone")
    with open(path, "w") as f:
        f.write("not a directory")
    d.start()
    assert d.wait(j, "succeeded", "failed")["status"] == "succeeded"
    checked_steps(d.messages(j))
    assert not os.path.exists(path + ".gone") and os.path.isdir(path)
    assert d.stop() == 0


def test_space(state):
    """Too little disk: uploads 503, waiting jobs wait, running ones pause; all go on by themselves when there is space."""
    os.makedirs(state)
    free = lambda: os.statvfs(state).f_bavail * os.statvfs(state).f_frsize
    if free() < 12 << 30:
        print("     (not enough disk for this test)")
        return
    d = Daemon(state)
    f = d.file()
    d.stop()
    d.args = ("--space-reserve-bytes", str(10 ** 15))
    d.start()
    status, b = d.upload()
    assert status == 503 and b["error"]["code"] == "no_space", b
    j = d.job(f)
    d.wait(j, "queued")
    time.sleep(0.3)
    assert d.get(j)["status"] == "queued"
    assert d.ok("POST", "/v1/fine_tuning/jobs/%s/cancel" % d.job(f))["status"] == "cancelled"
    d.stop()
    d.args = ("--space-reserve-bytes", str(free() - (3 << 30)))
    d.start(env={"QLORAD_TEST_STEP_MS": "300", "QLORAD_TEST_STEPS": "100"})
    d.wait(j, "running")
    big = os.path.join(state, "..", "big")
    with open(big, "wb") as out:
        os.posix_fallocate(out.fileno(), 0, 6 << 30)
    d.until(lambda: d.get(j)["qlora"].get("pause_reason") == "no_space" and d.get(j)["qlora"]["state"] == "paused", "paused for space")
    os.unlink(big)
    d.until(lambda: d.get(j)["status"] == "running", "resumed by itself")
    assert d.stop() == 0


class Mount:
    """A small file system of its own at `path`; .fill() leaves no byte free, .drain() gives all back."""
    def __init__(self, path, size):
        self.path, self.ballast = path, os.path.join(path, "ballast")
        os.makedirs(path)
        p = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%s,mode=700" % size, "tmpfs", path], capture_output=True)
        self.ok = p.returncode == 0
        if not self.ok:
            print("     SKIPPED: no right to mount a small file system here")

    def fill(self):
        with open(self.ballast, "ab", buffering=0) as f:
            for n in (1 << 24, 1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while f.write(b"x" * n) > 0:
                        pass

    def drain(self):
        os.unlink(self.ballast)

    def close(self):
        if self.ok:
            subprocess.run(["umount", "-l", self.path], check=True)


def test_full_disk(state):
    """Commits that find no room: refused by name, nothing half done, and all goes on when there is space."""
    m = Mount(state, "6m")
    if not m.ok:
        return
    try:
        d = Daemon(state, {"QLORAD_TEST_STEP_MS": "20", "QLORAD_TEST_STEPS": "40", "QLORAD_TEST_SAVE": "1000"}, ("--space-reserve-bytes", "0"))
        f = d.file()
        held = d.job(f, qlora={"auto_start": False})
        d.wait(held, "paused")
        unused, j = d.file(), d.job(f)
        d.until(lambda: d.get(j)["qlora"].get("progress", {}).get("step", 0) >= 3, "steps")
        m.fill()
        for method, path, body in (("POST", "/v1/fine_tuning/jobs", {"model": "fake", "training_file": f}),
                                   ("POST", "/v1/fine_tuning/jobs/%s/resume" % held, None),
                                   ("POST", "/v1/fine_tuning/jobs/%s/cancel" % held, None), ("DELETE", "/v1/files/" + unused, None)):
            status, b = d.call(method, path, body)
            assert status == 503 and b["error"]["code"] == "no_space" and int(d.headers["retry-after"]) > 0, (path, status, b)
        assert d.upload()[0] == 503 and len(os.listdir(os.path.join(state, "files"))) == 2
        # what is shown is what is stored; the job runs on, dies at its end (nothing can be written), and waits
        assert d.get(held)["qlora"]["state"] == "paused" and len(d.ok("GET", "/v1/fine_tuning/jobs")["data"]) == 2
        d.until(lambda: d.ok("GET", "/v1/status")["engine"]["restarts"] >= 1, "the engine's end")
        time.sleep(1)
        assert d.get(j)["status"] in ("running", "queued") and d.p.poll() is None
        d.stop(signal.SIGKILL)
        d.start()  # on a full disk too
        assert d.get(j)["status"] in ("running", "queued")
        m.drain()
        assert d.ok("POST", "/v1/fine_tuning/jobs/%s/cancel" % held)["status"] == "cancelled"
        assert d.wait(j, "succeeded", "failed")["status"] == "succeeded"
        checked_steps(d.messages(j), 40)
        assert d.stop() == 0
        assert subprocess.run([PROGRAM, "check", "--state-dir", state], capture_output=True).stdout == b"ok\n"
    finally:
        m.close()


def test_reserve(state):
    """The store's own reserve: deletes and cancels are committed on a full disk."""
    m = Mount(state, "400m")
    if not m.ok:
        return
    try:
        d = Daemon(state, {"QLORAD_TEST_STEP_MS": "300", "QLORAD_TEST_STEPS": "100"}, ("--space-reserve-bytes", "1"))
        reserve = os.path.join(state, "reserve")
        assert os.path.getsize(reserve) == 64 << 20
        j, unused = d.job(d.file()), d.file()
        d.wait(j, "running")
        m.fill()
        assert d.ok("DELETE", "/v1/files/" + unused)["deleted"] is True and not os.path.exists(reserve)
        assert d.ok("POST", "/v1/fine_tuning/jobs/%s/cancel" % j)["status"] == "cancelled"
        m.drain()
        d.until(lambda: os.path.exists(reserve), "the reserve is made again")
        assert d.stop() == 0
    finally:
        m.close()


def test_notify(state):
    path = os.path.join(state, "n")
    os.makedirs(state, exist_ok=True)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(path)
    s.settimeout(WAIT)
    d = Daemon(os.path.join(state, "s"), {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"})
    assert s.recv(100) == b"READY=1" and s.recv(100) == b"WATCHDOG=1"
    d.p.send_signal(signal.SIGTERM)
    while not s.recv(100).startswith(b"STOPPING=1"):
        pass
    assert d.stop() == 0


WAITS = ("test_snapshots_of_ended_jobs", "test_faults", "test_space", "test_full_disk", "test_reserve")


def main():
    names = sys.argv[3:] or [n for n in globals() if n.startswith("test_")]
    if names == ["waits"]:
        names = list(WAITS)
    elif names == ["others"]:
        names = [n for n in globals() if n.startswith("test_") and n not in WAITS]
    failed = []
    for name in names:
        top = tempfile.mkdtemp(prefix="qlorad-control-")
        before = time.time()
        try:
            globals()[name](os.path.join(top, "state"))
            print("ok   %-24s %5.1f s" % (name, time.time() - before), flush=True)
        except BaseException:
            failed.append(name)
            print("FAIL %s\n%s" % (name, traceback.format_exc()), flush=True)
            for root, _, files in os.walk(top):
                for log in (x for x in files if x.endswith(".log")):
                    with open(os.path.join(root, log), errors="replace") as f:
                        print("%s:\n%s" % (log, "".join(f.readlines()[-30:])), flush=True)
        finally:
            for child in left_over(top):
                os.kill(child, signal.SIGKILL)
            shutil.rmtree(top, ignore_errors=True)
    print("%d of %d failed %s" % (len(failed), len(names), failed))
    return 1 if failed else 0


def left_over(top):
    """Processes of ours that a failed test left, known by the state directory in their arguments."""
    out = []
    for pid in os.listdir("/proc"):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                if pid.isdigit() and top.encode() in f.read():
                    out.append(int(pid))
        except OSError:
            pass
    return out


sys.exit(main())

#!/usr/bin/env python3
"""soak.py MINUTES [--rounds N] [--seed S] [--kill-every N] [--json FILE]

One daemon with its own engine on a tiny model, kept busy for a long time the way users keep one busy: jobs that end, fail, are paused,
cancelled or lose their engine; answers streamed and not, clients that leave; uploads, previews, imports, exports, deletions, bad
requests.  After every round the memory, threads and open files of both processes are noted.  It fails when something that should
stay flat has grown between the second quarter of the rounds and the last: memory by more than 3 % and 1.5 MiB, threads or
descriptors at all; and when a job is lost or files of deleted things stay behind.

An engine that is killed (every 25th round; --kill-every 0: never) starts anew, so its memory is compared from its last start on."""
import argparse
import json
import os
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "integration"))
import tiny_model  # noqa: E402
from conftest import Daemon  # noqa: E402

MIB = 1024.0  # /proc counts in KiB


def children(pid):
    return [int(x) for x in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sample(pid):
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return {"anon_kib": int(status["RssAnon"].split()[0]), "threads": int(status["Threads"]), "fds": len(os.listdir(f"/proc/{pid}/fd"))}


class Soak:
    def __init__(self, d, rng):
        self.d, self.rng, self.adapters, self.counts = d, rng, [], {}

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def ok(self, r):
        assert r.status == 200, r
        return r.json

    def job(self, jid):
        return self.ok(self.d.get(f"/v1/fine_tuning/jobs/{jid}"))

    def wait(self, jid, *states):
        return self.d.until(lambda: (lambda j: j if j["qlora"]["state"] in states else None)(self.job(jid)), 120, f"{jid} {states}")

    def submit(self, data, **qlora):
        f = self.ok(self.d.upload(data))["id"]
        body = {"model": self.rng.choice(["tiny", *self.adapters]), "training_file": f, "seed": self.rng.randrange(1000), "suffix": "soak",
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4}}},
                "qlora": {"max_steps": 12, "save_steps": 4, "max_seq_length": 64, "learning_rate": 1e-3, **qlora}}
        if body["model"] == "tiny":
            body["qlora"]["rank"] = self.rng.choice([2, 4])
        return f, self.ok(self.d.post("/v1/fine_tuning/jobs", body))["id"]

    # ---- what users do
    def train(self):
        f, jid = self.submit(tiny_model.chat_lines(self.rng.randint(16, 40), self.rng.randrange(100)))
        events = self.d.stream("GET", f"/v1/fine_tuning/jobs/{jid}/events?stream=true")
        fate = self.rng.random()
        if fate < 0.15:
            self.d.post(f"/v1/fine_tuning/jobs/{jid}/cancel")
        elif fate < 0.35:
            self.d.post(f"/v1/fine_tuning/jobs/{jid}/pause")
            self.wait(jid, "paused", "succeeded")
            self.d.post(f"/v1/fine_tuning/jobs/{jid}/resume")
        if fate < 0.6:
            self.ask(self.rng.randint(1, 3))  # beside it
        end = self.wait(jid, "succeeded", "cancelled")
        events.close()
        self.count("job " + end["status"])
        if end["fine_tuned_model"]:
            self.adapters.append(end["fine_tuned_model"])
            for c in self.ok(self.d.get(f"/v1/fine_tuning/jobs/{jid}/checkpoints"))["data"][1:]:
                self.ok(self.d.delete("/v1/models/" + c["fine_tuned_model_checkpoint"]))
            assert self.d.get(f"/v1/files/{end['result_files'][0]}/content").status == 200
            self.ok(self.d.delete("/v1/files/" + end["result_files"][0]))
        self.ok(self.d.delete("/v1/files/" + f))

    def bad_job(self):
        f, jid = self.submit(b'{"messages": [}\n' * 12)
        assert self.wait(jid, "failed")["error"]["code"]
        self.ok(self.d.delete("/v1/files/" + f))
        self.count("job failed")

    def ask(self, n):
        for _ in range(n):
            body = {"model": self.rng.choice(["tiny", *self.adapters]), "max_tokens": self.rng.randint(1, 40), "temperature": self.rng.choice([0, 1]),
                    "messages": [{"role": "user", "content": "x" * self.rng.randint(1, 120)}], "n": self.rng.choice([1, 1, 2])}
            how = self.rng.random()
            if how < 0.5:
                self.ok(self.d.post("/v1/chat/completions", body))
            else:
                s = self.d.stream("POST", "/v1/chat/completions", {**body, "stream": True})
                assert s.status == 200
                if how < 0.75:
                    assert s.data()[-1] == "[DONE]"
                else:
                    next(iter(s))  # and leaves
                s.close()
            self.count("answer")

    def look(self):
        f = self.ok(self.d.upload(tiny_model.chat_lines(12)))["id"]
        self.ok(self.d.get(f"/v1/files/{f}/preview"))
        self.ok(self.d.post("/tokenize", {"prompt": "hello " * 50, "model": "tiny"}))
        for path in ("/v1/models", "/metrics", "/v1/fine_tuning/jobs?limit=100", "/health", "/v1/adapters"):
            assert self.d.get(path).status == 200, path
        for bad in ({"model": "nobody", "messages": [{"role": "user", "content": "x"}]}, {"model": "tiny"}, {"model": "tiny", "messages": 3},
                    {"model": "tiny", "messages": [{"role": "user", "content": "y" * 3000}]}):
            assert 400 <= self.d.post("/v1/chat/completions", bad).status < 500, bad
        assert self.d.post("/v1/fine_tuning/jobs", b"{", headers={"Content-Type": "application/json"}).status == 400
        self.ok(self.d.delete("/v1/files/" + f))
        self.count("look")

    def export(self):
        if not self.adapters:
            return
        fmt = self.rng.choice([{"format": "peft"}, {"format": "gguf_lora"}, {"format": "gguf", "quantization": "f16"},
                               {"format": "gguf", "quantization": "q8_0"}])
        x = self.ok(self.d.post("/v1/exports", {"model": self.rng.choice(self.adapters), **fmt}))["id"]
        end = self.d.until(lambda: (lambda v: v if v["status"] in ("succeeded", "failed") else None)(self.ok(self.d.get("/v1/exports/" + x))), 60, "export")
        assert end["status"] == "succeeded", end
        for name in (f["name"] for f in end["files"]):
            assert self.d.get(f"/v1/exports/{x}/content?file={name}").status == 200
        self.ok(self.d.delete("/v1/exports/" + x))
        self.count("export")

    def forget(self):
        while len(self.adapters) > 4:
            self.ok(self.d.delete("/v1/models/" + self.adapters.pop(0)))

    def kill(self):
        before = self.ok(self.d.get("/v1/status"))["engine"]["restarts"]
        f, jid = self.submit(tiny_model.chat_lines(24), max_steps=120)
        self.wait(jid, "running")
        time.sleep(self.rng.random() * 0.3)
        for pid in children(self.d.proc.pid):
            os.kill(pid, signal.SIGKILL)
        end = self.wait(jid, "succeeded")
        self.d.until(lambda: self.ok(self.d.get("/v1/status"))["engine"]["restarts"] > before and self.d.get("/readyz", token=None).status == 200, 90, "ready")
        self.adapters.append(end["fine_tuned_model"])
        self.ok(self.d.delete("/v1/files/" + end["result_files"][0]))
        self.ok(self.d.delete("/v1/files/" + f))
        self.count("engine killed")

    def round(self, i, kill_every):
        self.train()
        self.ask(self.rng.randint(2, 6))
        self.look()
        if i % 4 == 1:
            self.export()
        if i % 5 == 2:
            self.bad_job()
        self.forget()
        if kill_every and i % kill_every == kill_every - 1:
            self.kill()
            self.forget()
            return True
        return False


def grown(name, rows, key):
    """A sentence about a series that has not stayed flat, or None.  Quarters: what comes first is warm-up."""
    values = [r[key] for r in rows]
    n = len(values) // 4
    if n < 3:
        return None
    before, after = statistics.median(values[n:2 * n]), statistics.median(values[-n:])
    if key == "anon_kib":
        bad = after > before * 1.03 and after > before + 1.5 * MIB
        unit = f"{before / MIB:.2f} → {after / MIB:.2f} MiB"
    else:
        bad, unit = after > before, f"{before:g} → {after:g}"
    print(f"{'GROWN' if bad else 'flat '}  {name:8} {key:9} {unit}")
    return f"{name}: {key} has grown, {unit}" if bad else None


def left_behind(d, soak):
    """Directories and files that belong to nothing that is listed."""
    listed = {"files": len(soak.ok(d.get("/v1/files?limit=10000"))["data"]), "exports": len(soak.ok(d.get("/v1/exports?limit=100"))["data"]),
              "adapters": len(soak.adapters)}
    out = []
    for name, n in listed.items():
        d.until(lambda name=name, n=n: len(list((d.state / name).iterdir())) <= n, 20, f"{name}: {n} entries")
        out.append(f"{name} {n}")
    return ", ".join(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("minutes", type=float)
    p.add_argument("--rounds", type=int, default=10**9)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--kill-every", type=int, default=25)
    p.add_argument("--json")
    o = p.parse_args()
    series = {"control": [], "engine": []}
    with tempfile.TemporaryDirectory() as tmp:
        base = tiny_model.write(pathlib.Path(tmp) / "tiny")
        d = Daemon(tmp, ["--device", "cpu", "--threads", "2", "--model-name", "tiny"], base=base, real=True).start()
        soak = Soak(d, random.Random(o.seed))
        end, i = time.monotonic() + o.minutes * 60, 0
        while time.monotonic() < end and i < o.rounds:
            try:
                if soak.round(i, o.kill_every):
                    series["engine"] = []
            except BaseException:
                print(f"round {i}; the daemon's last words:\n" + "".join(x for x in d.log if " http: " not in x)[-6000:])
                raise
            i += 1
            time.sleep(0.05)  # what the last request left is done
            series["control"].append(sample(d.proc.pid))
            series["engine"] += [sample(pid) for pid in children(d.proc.pid)]
        jobs = soak.ok(d.get("/v1/fine_tuning/jobs?limit=100"))["data"]
        assert all(j["status"] in ("succeeded", "failed", "cancelled") for j in jobs), "a job was lost"
        print(f"{i} rounds: " + ", ".join(f"{n} × {what}" for what, n in sorted(soak.counts.items())))
        print("left: " + left_behind(d, soak))
        faults = [x for name, rows in series.items() for key in ("anon_kib", "threads", "fds") if (x := grown(name, rows, key))]
        assert d.stop() == 0
    if o.json:
        pathlib.Path(o.json).write_text(json.dumps(series))
    print("\n".join(faults) or "nothing has grown")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

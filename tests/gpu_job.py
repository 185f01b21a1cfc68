#!/usr/bin/env python3
"""One whole job through HTTP on a GPU host, with what is in this repository and Python alone:

  tests/gpu_job.py QLORAD [CUDA_DEVICE [BASE TRAIN.jsonl]]      e.g.  tests/gpu_job.py build/qlorad cuda

Makes a small Llama (head size 64), or takes the base and the data given (a GGUF file or a directory), trains it through the API on the GPU and on the CPU backend with the same batches, compares the
losses, chats while training, kills the engine and resumes to the same bits, exports.  Prints one line for each; exit status 0 if all hold.
"""
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent / "integration"))
import tiny_model

EXE, DEVICE = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cuda"
STEPS = 50
top = pathlib.Path(tempfile.mkdtemp())
if len(sys.argv) > 4:
    base, data, hyper = sys.argv[3], pathlib.Path(sys.argv[4]).read_bytes(), {"rank": 16, "learning_rate": 3e-4}
else:
    base = tiny_model.write(top / "small-llama", layers=4, hidden=256, inner=512, heads=4, kv=2)
    data, hyper = tiny_model.chat_lines(120), {"rank": 8, "learning_rate": 0.002}


class Server:
    def __init__(self, name, device):
        self.state, self.port, self.log = top / name, None, []
        env = {k: v for k, v in os.environ.items() if not k.startswith("QLORAD_") or k == "QL_CUBLASLT"}
        self.p = subprocess.Popen([EXE, "serve", "--base", str(base), "--state-dir", str(self.state), "--listen", "127.0.0.1:0",
                                   "--device", device, "--model-name", "small"], stderr=subprocess.PIPE, text=True, env=env)
        threading.Thread(target=self.read, daemon=True).start()
        for _ in range(1200):
            time.sleep(0.1)
            if self.port and self.get("/readyz", quiet=True):
                self.key = (self.state / "admin.token").read_text().strip()
                return
            if self.p.poll() is not None:
                break
        raise SystemExit("no server:\n" + "".join(self.log[-20:]))

    def read(self):
        for line in self.p.stderr:
            self.log.append(line)
            if "listening on http://127.0.0.1:" in line:
                self.port = int(line.rsplit(":", 1)[1])

    def call(self, method, path, body=None, ctype="application/json", quiet=False):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        r = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method)
        if hasattr(self, "key"):
            r.add_header("Authorization", "Bearer " + self.key)
        if data is not None:
            r.add_header("Content-Type", ctype)
        try:
            return urllib.request.urlopen(r, timeout=60).read()
        except urllib.error.HTTPError as e:
            if quiet:
                return None
            raise SystemExit(f"{method} {path}: {e.code} {e.read()[:400]}\n" + "".join(self.log[-10:]))

    def get(self, path, **kw):
        return self.call("GET", path, **kw)

    def upload(self, data):
        body = (b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--B\r\nContent-Disposition: form-data; '
                b'name="file"; filename="t.jsonl"\r\n\r\n' + data + b"\r\n--B--\r\n")
        return json.loads(self.call("POST", "/v1/files", body, "multipart/form-data; boundary=B"))["id"]

    def submit(self, steps=STEPS):
        return json.loads(self.call("POST", "/v1/fine_tuning/jobs", {
            "model": "small", "training_file": self.upload(data), "seed": 5, "suffix": "g",
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 8}}},
            "qlora": {**hyper, "max_steps": steps, "save_steps": 10, "save_total_limit": 100}}))["id"]

    def job(self, jid):
        return json.loads(self.get(f"/v1/fine_tuning/jobs/{jid}"))

    def finish(self, jid):
        for _ in range(3000):
            j = self.job(jid)
            if j["status"] in ("succeeded", "failed", "cancelled"):
                if j["status"] != "succeeded":
                    raise SystemExit(f"job {j['status']}: {j['error']}\n" + "".join(self.log[-20:]))
                return j
            time.sleep(0.1)
        raise SystemExit("the job does not end")

    def losses(self, j):
        rows = self.get(f"/v1/files/{j['result_files'][0]}/content").decode().splitlines()[1:]
        return [float(r.split(",")[1]) for r in rows]

    def digest(self, jid):
        return hashlib.sha256(next((self.state / "adapters").glob(f"*{jid}*/adapter_model.safetensors")).read_bytes()).hexdigest()

    def step(self, jid):
        return ((self.job(jid)["qlora"].get("progress")) or {}).get("step") or 0

    def ask(self, model, text="say abc"):
        return json.loads(self.call("POST", "/v1/chat/completions", {"model": model, "temperature": 0, "max_tokens": 24, "logprobs": True,
                                    "messages": [{"role": "user", "content": text}]}))["choices"][0]

    def engine(self):
        for p in pathlib.Path("/proc").iterdir():
            try:
                if p.name.isdigit() and int((p / "stat").read_text().rsplit(")", 1)[1].split()[1]) == self.p.pid:
                    return int(p.name)
            except (OSError, IndexError):
                pass

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        if self.p.wait(60) != 0:
            raise SystemExit("bad end")


def spent(what):
    print(f"      {what}: {time.time() - t:.1f} s", flush=True)


def check(name, ok, detail=""):
    print(("ok    " if ok else "FAIL  ") + name, detail, flush=True)
    return ok


good = True
g, c = Server("gpu", DEVICE), Server("cpu", "cpu")
print("gpu:", json.loads(g.get("/v1/status"))["engine"], next((l.strip() for l in g.log if "ready" in l), ""), flush=True)
t = time.time()
jg = g.submit()
seen = {"n": 0, "text": ""}


def chatter():
    while g.job(jg)["status"] not in ("succeeded", "failed"):
        seen["text"] = g.ask("small")["message"]["content"]
        seen["n"] += 1


th = threading.Thread(target=chatter)
th.start()
rg = g.finish(jg)
th.join()
good &= check("trained on the GPU while chatting", seen["n"] > 0, f"{seen['n']} answers, {time.time() - t:.1f} s")
t = time.time()
rc = c.finish(c.submit())
spent("the same job on the CPU backend")
lg, lc = g.losses(rg), c.losses(rc)
worst = max(abs(a - b) / b for a, b in zip(lg, lc))
good &= check("losses track the CPU backend", len(lg) == STEPS and worst <= 0.02, f"worst {100 * worst:.2f} %, first {lg[0]:.4f}/{lc[0]:.4f}, last {lg[-1]:.4f}/{lc[-1]:.4f}")
t = time.time()
j2 = g.submit()
g.finish(j2)
spent("the job alone on the GPU")
good &= check("same job, same bits", g.digest(j2) == g.digest(jg))
j3 = g.submit()
while g.step(j3) < 23:
    time.sleep(0.002)
os.kill(g.engine(), signal.SIGKILL)
r3 = g.finish(j3)
good &= check("killed engine, same bits", g.digest(j3) == g.digest(jg), f"attempts {r3['qlora']['attempt']}")
for m in ("small", rg["fine_tuned_model"]):
    a = g.ask(m)
    b = c.ask("small" if m == "small" else rc["fine_tuned_model"])
    d = []
    for x, y in zip(a["logprobs"]["content"][:5], b["logprobs"]["content"][:5]):
        if x["token"] != y["token"]:  # a near-tie went the other way; what follows has another past
            break
        d.append(abs(x["logprob"] - y["logprob"]))
    good &= check("answers of " + m[:12], d and max(d) < 0.15, f"{len(d)} tokens equal, log-probabilities within {max(d or [9]):.3f} of the CPU's")
what = {"format": "gguf", "quantization": "q8_0"} if str(base).endswith(".gguf") else {"format": "safetensors"}
x = json.loads(g.call("POST", "/v1/exports", {"model": rg["fine_tuned_model"], **what}))
while x["status"] not in ("succeeded", "failed"):
    time.sleep(0.2)
    x = json.loads(g.get(f"/v1/exports/{x['id']}"))
good &= check("exported", x["status"] == "succeeded", x.get("error") or str([f["name"] for f in x["files"]][:3]))
g.stop()
c.stop()
sys.exit(0 if good else 1)

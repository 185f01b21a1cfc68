"""served.py - a daemon for the time of a `with` block, with the real engine on SmolLM2."""
import os
import re
import signal
import subprocess
import time

from common import THREADS, program, smol


class Daemon:
    """.url, .token, .env (for the client sub-commands), .control and .engine (process ids), .model (id of the base)."""

    model = "smollm2-135m"

    def __init__(self, state, *args):
        self.state, self.args = state, args

    def __enter__(self):
        os.makedirs(self.state, exist_ok=True)
        self.log_path = os.path.join(self.state, "daemon.log")
        env = {k: v for k, v in os.environ.items() if not k.startswith("QLORAD_")}
        with open(self.log_path, "w") as log:
            self.proc = subprocess.Popen([program("qlorad"), "serve", "--base", smol(), "--model-name", self.model, "--state-dir", self.state,
                                          "--listen", "127.0.0.1:0", "--device", "cpu", "--threads", str(THREADS), *self.args],
                                         stderr=log, stdout=log, env=env)
        self.url = self.find(r"listening on (http://127\.0\.0\.1:\d+)", 30)
        self.find(r"engine: ready", 120)
        self.engine = int(self.find(r"engine: started, process (\d+)", 1))
        self.control = self.proc.pid
        self.token = open(os.path.join(self.state, "admin.token")).read().strip()
        self.env = dict(env, QLORAD_SERVER=self.url, QLORAD_KEY=self.token)
        return self

    def find(self, pattern, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = open(self.log_path).read()
            m = re.search(pattern, text)
            if m:
                return m.group(m.lastindex or 0)
            if self.proc.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit("the daemon did not start:\n" + open(self.log_path).read()[-3000:])

    def __exit__(self, *_):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(60)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()

"""Fixtures of the integration tests: a real daemon on a free port, driven over HTTP.

Environment:
  QLORAD_EXE         the binary (default: build/qlorad below the repository root)
  QLORAD_ENGINE_EXE  the program started as engine (default: the fake engine of tests/unit/daemon beside the binary; an empty
                     value means the binary's own engine)
  QLORAD_TEST_BASE   base model for the real engine (the fake one takes any file)
  QL_PYTHON          a Python with the official `openai` package, for test_http_openai.py
"""
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXE = pathlib.Path(os.environ.get("QLORAD_EXE", ROOT / "build" / "qlorad"))
FAKE = os.environ.get("QLORAD_ENGINE_EXE", str(EXE.parent / "tests" / "unit" / "daemon" / "fake_engine"))
REAL_ENGINE = FAKE == ""


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: waits for deadlines of many seconds")


class Reply:
    """Status, headers (lower-case names) and body of an answer."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, {k.lower(): v for k, v in headers}, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        err = self.json["error"]
        assert set(err) == {"message", "type", "param", "code"}, err
        return err

    def __repr__(self):
        return f"<{self.status} {self.body[:400]!r}>"


def clean_env():
    """The environment without our own names: the daemon refuses settings it does not know."""
    return {k: v for k, v in os.environ.items() if k not in ("QLORAD_EXE", "QLORAD_TEST_BASE")}


class Daemon:
    def __init__(self, tmp, args=(), env=None, base=None, real=REAL_ENGINE):
        self.tmp = pathlib.Path(tmp)
        self.state = self.tmp / "state"
        self.args, self.extra_env = list(args), dict(env or {})
        self.real = real  # the binary's own engine instead of the fake one
        self.base = base or os.environ.get("QLORAD_TEST_BASE")
        if not self.base:
            self.base = self.tmp / "base.gguf"
            self.base.write_bytes(b"GGUF" + bytes(60))
        self.proc, self.port, self.sock, self.log, self.strangers = None, None, None, [], 0

    @staticmethod
    def exe():
        return EXE

    # ---- life
    def start(self, wait_ready=True):
        env = clean_env()
        env.update(self.extra_env)
        if not self.real:
            env["QLORAD_ENGINE_EXE"] = FAKE
        else:
            env.pop("QLORAD_ENGINE_EXE", None)
        argv = [str(EXE), "serve", "--base", str(self.base), "--state-dir", str(self.state)]
        if "--listen" not in self.args:
            argv += ["--listen", "127.0.0.1:0"]
        self.log, self.sock = [], None
        self.proc = subprocess.Popen(argv + self.args, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                     errors="replace")
        listening = threading.Event()
        self.port = None

        def read(proc=self.proc, log=self.log):
            for line in proc.stderr:
                log.append(line)
                m = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
                if m:
                    self.port = int(m.group(1))
                    listening.set()
                if re.search(r"listening on unix:(\S+)", line):
                    self.sock = re.search(r"listening on unix:(\S+)", line).group(1)
                    listening.set()
            listening.set()

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        assert listening.wait(30), "no `listening on` line"
        assert self.port or self.sock, "the daemon ended at its start:\n" + "".join(self.log[-20:])
        self.token = (self.state / "admin.token").read_text().strip() if (self.state / "admin.token").exists() else ""
        if wait_ready:
            self.until(lambda: self.get("/readyz", token=None).status == 200, 600 if self.real else 20, "ready")
        return self

    def stop(self, sig=signal.SIGTERM, timeout=40):
        if self.proc is None:
            return 0
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        try:
            rc = self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise AssertionError("the daemon did not end:\n" + "".join(self.log[-20:]))
        self.reader.join(5)
        text = "".join(self.log)
        assert "Sanitizer" not in text and "runtime error" not in text, text[-6000:]
        self.proc = None
        return rc

    def until(self, what, seconds=20, name="condition"):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.proc.poll() is None, "the daemon is gone:\n" + "".join(self.log[-20:])
            v = what()
            if v:
                return v
            time.sleep(0.05)
        raise AssertionError(f"not reached in {seconds} s: {name}\n" + "".join(self.log[-20:]))

    def alive(self):
        assert self.get("/livez", token=None).status == 200

    # ---- requests
    def request(self, method, path, body=None, headers=None, token="admin", timeout=30, conn=None, source=None):
        """token: "admin" (the daemon's), None (no header) or a token's text.  body: bytes, or an object sent as JSON.
        source: the client's address; every request with a token of its own comes from another loopback address, so that the
        limit of failed tokens by address meets only the tests that mean it."""
        h = dict(headers or {})
        if source is None and token != "admin":
            self.strangers += 1
            source = f"127.1.{self.strangers // 250 % 250}.{self.strangers % 250 + 1}"
        if token == "admin":
            token = self.token
        if token:
            h.setdefault("Authorization", "Bearer " + token)
        if body is not None and not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
            h.setdefault("Content-Type", "application/json")
        c = conn or http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout,
                                               source_address=(source, 0) if source else None)
        try:
            c.request(method, path, body=body, headers=h)
            r = c.getresponse()
            return Reply(r.status, r.getheaders(), r.read())
        finally:
            if conn is None:
                c.close()

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body=None, **kw):
        return self.request("POST", path, body, **kw)

    def delete(self, path, **kw):
        return self.request("DELETE", path, **kw)

    def raw(self, data, timeout=15, shut=False):
        """Sends bytes as they are and reads until the daemon closes (or the time is up): (bytes, closed)."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        out = b""
        end = time.monotonic() + timeout
        try:
            try:
                s.sendall(data)
                if shut:
                    s.shutdown(socket.SHUT_WR)
                while time.monotonic() < end:
                    s.settimeout(max(0.05, end - time.monotonic()))
                    part = s.recv(65536)
                    if not part:
                        return out, True
                    out += part
            except (ConnectionResetError, BrokenPipeError):
                return out, True
            except socket.timeout:
                pass
            return out, False
        finally:
            s.close()

    def stream(self, method, path, body=None, headers=None, token="admin", timeout=60):
        """An open event stream: iterate over (fields) of each event; .close() hangs up."""
        return Stream(self, method, path, body, headers, token, timeout)

    def upload(self, data, purpose="fine-tune", filename="train.jsonl", token="admin", headers=None, fields=None):
        boundary = uuid.uuid4().hex
        parts = []
        for k, v in [("purpose", purpose)] + list((fields or {}).items()):
            if v is not None:
                parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode())
        if data is not None:
            parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
                         "Content-Type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n")
        parts.append(f"--{boundary}--\r\n".encode())
        h = {"Content-Type": "multipart/form-data; boundary=" + boundary}
        h.update(headers or {})
        return self.post("/v1/files", b"".join(parts), headers=h, token=token)

    def cli(self, *args):
        return subprocess.run([str(EXE), *args], capture_output=True, text=True, timeout=30, env=clean_env())

    def make_token(self, scopes, project="default", label="test"):
        """A new token's text and id, from `qlorad token add`; scopes such as "infer,train"."""
        p = self.cli("token", "add", "--state-dir", str(self.state), "--label", label, "--scopes", scopes, "--project", project)
        assert p.returncode == 0, p.stderr
        text = re.search(r"qlo_[A-Za-z0-9_-]{43}", p.stdout).group(0)
        return text, re.search(r"key-[0-9a-z]{24}", p.stdout + p.stderr).group(0)

    def sql(self, text, *values):
        """Runs a statement on the daemon's store, beside it."""
        with contextlib.closing(sqlite3.connect(self.state / "qlorad.db", timeout=10)) as db, db:
            return db.execute(text, values).fetchall()

    def metric(self, name, labels=""):
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(name + labels + " ") or (labels and line.startswith(name + "{") and labels in line):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


class Stream:
    def __init__(self, d, method, path, body, headers, token, timeout):
        h = dict(headers or {})
        if token == "admin":
            token = d.token
        if token:
            h["Authorization"] = "Bearer " + token
        if body is not None:
            body = json.dumps(body).encode()
            h["Content-Type"] = "application/json"
        self.conn = http.client.HTTPConnection("127.0.0.1", d.port, timeout=timeout)
        self.conn.request(method, path, body=body, headers=h)
        self.resp = self.conn.getresponse()
        self.status, self.headers = self.resp.status, {k.lower(): v for k, v in self.resp.getheaders()}

    def __iter__(self):
        fields = {}
        while True:
            line = self.resp.readline()
            if not line:
                return
            line = line.decode().rstrip("\n")
            if line == "":
                if fields:
                    yield fields
                fields = {}
            elif line.startswith(":"):
                yield {"comment": line[1:].strip()}
            else:
                name, _, value = line.partition(":")
                value = value[1:] if value.startswith(" ") else value
                fields[name] = fields[name] + "\n" + value if name in fields else value

    def data(self):
        """The data of every event until the end, [DONE] included."""
        return [e["data"] for e in self if "data" in e]

    def close(self):
        if self.conn.sock is not None:
            self.conn.sock.close()
        self.resp.close()
        self.conn.close()


def chat_lines(n=12):
    return b"".join(json.dumps({"messages": [{"role": "user", "content": f"question {i}"},
                                             {"role": "assistant", "content": f"answer {i}"}]}).encode() + b"\n" for i in range(n))


@pytest.fixture(scope="session")
def built():
    if not EXE.exists():
        pytest.exit(f"{EXE} does not exist: build first, or set QLORAD_EXE", returncode=2)
    if not REAL_ENGINE and not pathlib.Path(FAKE).exists():
        pytest.exit(f"{FAKE} does not exist: build first, or set QLORAD_ENGINE_EXE", returncode=2)


@pytest.fixture(scope="module")
def daemon(built, tmp_path_factory):
    """One daemon for all tests of a file."""
    d = Daemon(tmp_path_factory.mktemp("daemon")).start()
    yield d
    assert d.stop() == 0


@pytest.fixture
def make_daemon(built, tmp_path):
    """A function that starts further daemons: make_daemon(args=[…], env={…})."""
    started = []

    def make(args=(), env=None, start=True, wait_ready=True):
        tmp = tmp_path / f"d{len(started)}"
        tmp.mkdir()
        d = Daemon(tmp, args, env)
        started.append(d)
        return d.start(wait_ready) if start else d

    yield make
    for d in started:
        if d.proc is not None:
            d.stop()


@pytest.fixture(scope="module")
def model(daemon):
    """Id of the base model."""
    return daemon.get("/v1/models").json["data"][0]["id"]


@pytest.fixture(scope="module")
def training_file(daemon):
    r = daemon.upload(chat_lines())
    assert r.status == 200, r
    return r.json["id"]

"""A daemon with its real engine on SmolLM2, shared by the tests that let other programs load and drive what it makes; SmolLM2's
tokenizer.json; a client of data_tool.

Environment: QL_QLORAD = the binary, QL_SMOL = SmolLM2-135M-Instruct as GGUF; absent: those tests are skipped and say so.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = "smollm2-135m"


class Served:
    def __init__(self, state, base=None, name=BASE):
        self.state, self.name = pathlib.Path(state), name
        self.log = self.state.parent / "daemon.log"
        env = {k: v for k, v in os.environ.items() if not k.startswith("QLORAD_")}
        with open(self.log, "w") as log:
            self.proc = subprocess.Popen([os.environ["QL_QLORAD"], "serve", "--base", str(base or os.environ["QL_SMOL"]), "--model-name", name,
                                          "--state-dir", str(state), "--listen", "127.0.0.1:0", "--device", "cpu", "--threads", "2"],
                                         stdout=log, stderr=log, env=env)
        self.url = self.wait_log(r"listening on (http://127\.0\.0\.1:\d+)", 30).group(1)
        self.wait_log(r"engine: ready", 300)
        self.token = (self.state / "admin.token").read_text().strip()

    def wait_log(self, pattern, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            m = re.search(pattern, self.log.read_text())
            if m:
                return m
            assert self.proc.poll() is None, self.tail()
            time.sleep(0.05)
        raise AssertionError(f"{pattern} did not appear:\n{self.tail()}")

    def tail(self):
        return self.log.read_text()[-3000:]

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        try:
            return self.proc.wait(120)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise AssertionError("the daemon did not end:\n" + self.tail())

    # ---- requests
    def call(self, path, body=None, raw=None, content_type="application/json", method=None):
        data = json.dumps(body).encode() if body is not None else raw
        req = urllib.request.Request(self.url + path, data=data, method=method,
                                     headers={"Authorization": "Bearer " + self.token, "Content-Type": content_type})
        try:
            with urllib.request.urlopen(req, timeout=600) as r:
                return r.read()
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{path}: {e.code} {e.read()[:600]!r}") from e

    def json(self, path, body=None):
        return json.loads(self.call(path, body))

    def upload(self, path, purpose="fine-tune", filename="train.jsonl"):
        b = uuid.uuid4().hex
        data = (f'--{b}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--{b}\r\nContent-Disposition: form-data; '
                f'name="file"; filename="{filename}"\r\n\r\n').encode() + pathlib.Path(path).read_bytes() + f"\r\n--{b}--\r\n".encode()
        return json.loads(self.call("/v1/files", raw=data, content_type="multipart/form-data; boundary=" + b))["id"]

    def train(self, path, batch_size=8, seed=1, **qlora):
        job = self.json("/v1/fine_tuning/jobs", {
            "model": self.name, "training_file": self.upload(path), "suffix": "interop", "seed": seed, "qlora": qlora,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": batch_size}}}})["id"]
        return self.finish("/v1/fine_tuning/jobs/" + job, 900)

    def finish(self, path, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            v = self.json(path)
            if v["status"] in ("succeeded", "failed", "cancelled"):
                assert v["status"] == "succeeded", (v["error"], self.tail())
                return v
            time.sleep(0.2)
        raise AssertionError(f"{path} did not end:\n{self.tail()}")

    def export(self, out, model, fmt, quantization=None, merge_base=None):
        """Creates, waits and downloads; the paths of the files by name."""
        body = {"model": model, "format": fmt}
        if quantization:
            body["quantization"] = quantization
        if merge_base:
            body["merge_base"] = merge_base
        x = self.finish("/v1/exports/" + self.json("/v1/exports", body)["id"], 600)
        self.verification = x["verification"]
        pathlib.Path(out).mkdir(parents=True)
        for f in x["files"]:
            data = self.call(f"/v1/exports/{x['id']}/content?file={f['name']}")
            assert len(data) == f["bytes"]
            (pathlib.Path(out) / f["name"]).write_bytes(data)
        return {f["name"]: pathlib.Path(out) / f["name"] for f in x["files"]}


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    for name in ("QL_QLORAD", "QL_SMOL"):
        if not os.environ.get(name):
            pytest.skip(f"{name} is not set")
    s = Served(tmp_path_factory.mktemp("served") / "state")
    try:
        yield s
    finally:
        status = s.stop()
    assert status == 0, s.tail()


@pytest.fixture(scope="session")
def smol_json(tmp_path_factory):
    """SmolLM2's tokenizer.json, with a tokenizer_config.json beside it: the vocabulary and merges of the GGUF with Sequence[Digits(individual), ByteLevel(regex)].
    (AutoTokenizer from the GGUF is wrong: it forgets the digit split.)"""
    if not os.environ.get("QL_SMOL"):
        pytest.skip("QL_SMOL is not set")
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(os.environ["QL_SMOL"]).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    out = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                          "special": True} for i, (t, k) in enumerate(zip(tokens, types)) if k == 3],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)},
                  "merges": fields["tokenizer.ggml.merges"].contents()},
    }
    path = tmp_path_factory.mktemp("smol") / "tokenizer.json"
    path.write_text(json.dumps(out, ensure_ascii=False))
    path.with_name("tokenizer_config.json").write_text(json.dumps({
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
        "chat_template": fields["tokenizer.chat_template"].contents()}))
    return path


class DataTool:
    """data_tool on one base; jobs on its stdin."""

    def __init__(self, base, folder):
        self.file = pathlib.Path(folder) / "lines.jsonl"
        self.proc = subprocess.Popen([os.environ["QL_DATA_TOOL"], base], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, lines, max_seq_length=100000, **options):
        """The preview's examples and the report."""
        self.file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        job = {"file": str(self.file), "max_seq_length": max_seq_length, **options}
        self.proc.stdin.write(json.dumps(job).encode() + b"\n")
        self.proc.stdin.flush()
        answer = json.loads(self.proc.stdout.readline())
        assert "error" not in answer, answer
        return answer["preview"]["examples"], answer["report"]

    def close(self):
        self.proc.stdin.close()
        assert self.proc.wait(60) == 0

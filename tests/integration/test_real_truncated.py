"""A base that ends too early, and adapters that do: the binary's own loader says which file and where, and the daemon goes on serving."""
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import tarfile

import pytest

import tiny_model
from conftest import EXE, Daemon, clean_env

OFFSETS = 200


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    """A daemon on a tiny model, the model as GGUF, and an adapter as a PEFT directory and as a LoRA GGUF."""
    tmp = tmp_path_factory.mktemp("made")
    base = tiny_model.write(tmp / "tiny-llama")
    d = Daemon(tmp, ["--device", "cpu", "--threads", "1", "--model-name", "tiny"], base=base, real=True).start()

    def end(path):
        x = d.until(lambda: (lambda x: x if x["status"] in ("succeeded", "failed") else None)(d.get(path).json), 60, path)
        assert x["status"] == "succeeded", x
        return x

    job = d.post("/v1/fine_tuning/jobs", {"model": "tiny", "training_file": d.upload(tiny_model.chat_lines(12)).json["id"], "seed": 1,
                                          "qlora": {"rank": 2, "max_steps": 1}}).json["id"]
    tuned = end("/v1/fine_tuning/jobs/" + job)["fine_tuned_model"]

    def export(model, fmt, quantization=None):
        body = {"model": model, "format": fmt, **({"quantization": quantization} if quantization else {})}
        x = end("/v1/exports/" + d.post("/v1/exports", body).json["id"])
        return {f["name"]: d.get(f"/v1/exports/{x['id']}/content?file={f['name']}").body for f in x["files"]}

    gguf, = export("tiny", "gguf", "f16").values()
    lora, = export(tuned, "gguf_lora").values()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as t:
        for name, data in export(tuned, "peft").items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    yield d, gguf, lora, tar.getvalue()
    assert d.stop() == 0


def load(base, state):
    """The last frame of `qlorad engine` about this base (daemon/ipc.h): ready or fatal; and its exit status."""
    ours, theirs = socket.socketpair()
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)

    def descriptors():
        spare = os.dup(theirs.fileno()), os.dup(directory)
        os.dup2(spare[0], 3)
        os.dup2(spare[1], 4)

    p = subprocess.Popen([EXE, "engine"], preexec_fn=descriptors, close_fds=False, env=clean_env(), stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs.close()
    os.close(directory)
    init = json.dumps({"type": "init", "v": 1, "base": str(base), "device": "cpu", "threads": 1, "cache": "cache"}).encode()
    ours.sendall(struct.pack("<I", len(init)) + init)
    ours.settimeout(60)
    data, frame = b"", {}
    while frame.get("type") not in ("ready", "fatal"):
        part = ours.recv(65536)
        assert part, "the engine ended without a word"
        data += part
        while len(data) >= 4 and len(data) >= 4 + struct.unpack("<I", data[:4])[0]:
            n = 4 + struct.unpack("<I", data[:4])[0]
            frame, data = json.loads(data[4:n]), data[n:]
    ours.close()
    return frame, p.wait(60)


def test_base_cut_anywhere(made, tmp_path):
    _, gguf, _, _ = made
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(gguf)
    assert load(whole, tmp_path)[0]["type"] == "ready"
    cut = tmp_path / "cut.gguf"
    seen = set()
    for i in range(OFFSETS):
        n = i if i < 20 else len(gguf) - 1 if i == 20 else (len(gguf) - 20) * (i - 20) // (OFFSETS - 20) + 20
        cut.write_bytes(gguf[:n])
        frame, status = load(cut, tmp_path)
        assert frame["type"] == "fatal" and status == 64, (n, frame, status)
        message = frame["message"]
        assert message.count(str(cut)) == 1, (n, message)
        at = int(re.search(r"byte (\d+)$", message).group(1))
        assert at <= n and (n > 30 or at <= n), (n, message)
        seen.add(re.sub(r"\d+", "N", message))
    assert len(seen) > 5, seen


def said(d):
    return any(re.search(r"cut\.gguf.* byte \d+", line) for line in d.log)


def test_a_daemon_that_never_had_a_base_ends(made, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(made[1][:50000])
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "1"], base=cut, real=True).start(wait_ready=False)
    assert d.proc.wait(30) == 64
    d.reader.join(5)
    assert said(d), d.log


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_daemon_whose_base_was_cut_goes_on_serving(made, tmp_path, share):
    """The base is replaced by a part of it while the daemon runs, and the engine dies: files stay within reach; /health and readiness
    tell, requests that need the model are 503."""
    gguf = made[1]
    base = tmp_path / "cut.gguf"
    base.write_bytes(gguf)
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "1", "--model-name", "tiny"], base=base, real=True).start()
    assert d.get("/health").json["status"] == "ok"
    (tmp_path / "part").write_bytes(gguf[:int(len(gguf) * share)])
    os.replace(tmp_path / "part", base)
    engine = int(re.search(r"engine: started, process (\d+)", "".join(d.log)).group(1))
    os.kill(engine, signal.SIGKILL)
    d.until(lambda: said(d), 30, "the reason in the log")
    d.until(lambda: d.get("/health").status == 503 and d.get("/health").error["message"] == "The model engine is not running.", 30, "state")
    assert d.get("/livez", token=None).status == 200 and d.get("/readyz", token=None).status == 503
    file = d.upload(tiny_model.chat_lines(3))
    assert file.status == 200 and d.get("/v1/files/" + file.json["id"]).status == 200
    assert d.get(f"/v1/files/{file.json['id']}/preview").status == 503
    r = d.post("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "a"}]})
    assert r.status == 503, r
    assert d.stop() == 0


@pytest.mark.parametrize("kind", ["PEFT directory", "LoRA GGUF"])
def test_adapters_cut_anywhere(made, kind):
    d, _, lora, tar = made
    data = tar if kind == "PEFT directory" else lora
    # a tar may lack its last blocks of zeros
    end = len(data) if kind == "LoRA GGUF" else len(data.rstrip(b"\0")) - 600
    for i in range(24):
        n = 1 + (end - 2) * i // 23
        file = d.upload(data[:n], purpose="user_data", filename="adapter.bin").json["id"]
        r = d.post("/v1/load_lora_adapter", {"lora_name": "cut", "lora_path": file})
        assert r.status == 400 and r.error["message"], (n, r)
        d.delete("/v1/files/" + file)
    assert "cut" not in d.get("/v1/models").body.decode()
    file = d.upload(data, purpose="user_data", filename="adapter.bin").json["id"]
    r = d.post("/v1/load_lora_adapter", {"lora_name": "whole", "lora_path": file})
    assert r.status == 200, r
    assert d.post("/v1/unload_lora_adapter", {"lora_name": "whole"}).status == 200


def test_adapters_whose_names_are_cut_or_no_text(made):
    """A refusal quotes what was uploaded, cut to size and maybe within a character, or bytes that are no text: the engine says so and lives."""
    d, _, lora, tar = made
    with tarfile.open(fileobj=io.BytesIO(tar)) as t:
        files = {m.name: t.extractfile(m).read() for m in t}
    config = json.loads(files["adapter_config.json"])
    header = json.dumps({"é" * 40: {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}, ensure_ascii=False).encode()

    def archive(**changed):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as t:
            for name, data in {"adapter_config.json": json.dumps({**config, **changed.get("config", {})}, ensure_ascii=False).encode(),
                               "adapter_model.safetensors": changed.get("tensors", files["adapter_model.safetensors"])}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
        return out.getvalue()

    engines = sum("engine: started" in line for line in d.log)
    for data in (archive(config={"rank_pattern": {"a" * 59 + "éé": 0}}), archive(config={"rank_pattern": {"é" * 200: 0}}),
                 archive(config={"target_modules": ["a" * 79 + "é"]}),
                 archive(tensors=struct.pack("<Q", len(header)) + header + bytes(4)), lora.replace(b"adapter", b"adapt\xff\xc3", 1)):
        file = d.upload(data, purpose="user_data", filename="adapter.bin").json["id"]
        r = d.post("/v1/load_lora_adapter", {"lora_name": "cut", "lora_path": file})
        assert r.status == 400 and r.error["message"], r
    assert d.get("/health").json["status"] == "ok" and sum("engine: started" in line for line in d.log) == engines

"""Bad requests: each gets a 4xx that names the field, and the daemon goes on serving."""
import json

import pytest

from conftest import chat_lines

M = [{"role": "user", "content": "x"}]


def chat(**kw):
    return {"model": "MODEL", "messages": M, **kw}


def text(**kw):
    return {"model": "MODEL", "prompt": "x", **kw}


def job(**kw):
    return {"model": "MODEL", "training_file": "FILE", **kw}


def hyper(**kw):
    return job(method={"type": "supervised", "supervised": {"hyperparameters": kw}})


C, T, J, E = "/v1/chat/completions", "/v1/completions", "/v1/fine_tuning/jobs", "/v1/exports"
BIG = 2**63 - 1

# path, body, param (None: null; a tuple: any of them), code (None: not checked)
CASES = [
    # ---- chat
    (C, {}, "model", "missing_required_parameter"),
    (C, {"model": "MODEL"}, "messages", "missing_required_parameter"),
    (C, chat(model=5), "model", "invalid_value"),
    (C, chat(model=""), "model", "invalid_value"),
    (C, chat(messages=[]), "messages", "invalid_value"),
    (C, chat(messages="x"), "messages", "invalid_value"),
    (C, chat(messages=[1]), "messages[0]", None),
    (C, chat(messages=[{"role": "robot", "content": "x"}]), "messages[0].role", "invalid_value"),
    (C, chat(messages=[{"role": "user"}]), "messages[0].content", None),
    (C, chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]), "messages[0].content[0].type",
     "unsupported_value"),
    (C, chat(messages=M * 2049), "messages", "invalid_value"),
    (C, chat(temperature=2.01), "temperature", "invalid_value"),
    (C, chat(temperature=-0.01), "temperature", "invalid_value"),
    (C, chat(temperature="1"), "temperature", "invalid_value"),
    (C, chat(temperature=True), "temperature", "invalid_value"),
    (C, chat(top_p=1.01), "top_p", "invalid_value"),
    (C, chat(top_k=-1), "top_k", "invalid_value"),
    (C, chat(top_k=1001), "top_k", "invalid_value"),
    (C, chat(min_p=1.5), "min_p", "invalid_value"),
    (C, chat(repetition_penalty=0), "repetition_penalty", "invalid_value"),
    (C, chat(n=0), "n", "invalid_value"),
    (C, chat(n=17), "n", "invalid_value"),
    (C, chat(n=1.0), "n", "invalid_value"),
    (C, chat(max_tokens=-1), "max_tokens", "invalid_value"),
    (C, chat(max_tokens=BIG), "max_tokens", "invalid_value"),
    (C, chat(max_completion_tokens=10**8), "max_completion_tokens", "invalid_value"),
    (C, chat(presence_penalty=2.1), "presence_penalty", "invalid_value"),
    (C, chat(frequency_penalty=-2.1), "frequency_penalty", "invalid_value"),
    (C, chat(stop=["a"] * 5), "stop", "invalid_value"),
    (C, chat(stop=[""]), "stop", "invalid_value"),
    (C, chat(stop="x" * 257), "stop", "invalid_value"),
    (C, chat(stop=5), "stop", "invalid_value"),
    (C, chat(stop_token_ids=[-1]), "stop_token_ids", "invalid_value"),
    (C, chat(stop_token_ids=[1] * 17), "stop_token_ids", "invalid_value"),
    (C, chat(seed=1.5), "seed", "invalid_value"),
    (C, chat(logit_bias={"x": 1}), "logit_bias", "invalid_value"),
    (C, chat(logit_bias={"1": 101}), "logit_bias", "invalid_value"),
    (C, chat(logit_bias={"999999999": 1}), "logit_bias", "invalid_value"),
    (C, chat(logit_bias={str(i): 1 for i in range(1025)}), "logit_bias", "invalid_value"),
    (C, chat(logprobs=5), "logprobs", "invalid_value"),
    (C, chat(top_logprobs=3), "top_logprobs", "invalid_value"),
    (C, chat(logprobs=True, top_logprobs=21), "top_logprobs", "invalid_value"),
    (C, chat(stream="yes"), "stream", "invalid_value"),
    (C, chat(stream_options={"include_usage": 1}), "stream_options.include_usage", "invalid_value"),
    (C, chat(response_format={"type": "json_object"}), "response_format", "unsupported_value"),
    (C, chat(response_format={"type": "json_schema", "json_schema": {}}), "response_format", "unsupported_value"),
    (C, chat(response_format={}), "response_format.type", None),
    (C, chat(tools=[{"type": "function"}]), "tools[0].function.name", None),
    (C, chat(tool_choice="required"), "tool_choice", "unsupported_value"),
    (C, chat(modalities=["text", "audio"]), "modalities", "unsupported_value"),
    (C, chat(lora=[{"id": 0, "scale": 5}]), "lora[0].scale", "invalid_value"),
    (C, chat(lora=[{"id": 0}]), "lora[0].scale", "missing_required_parameter"),
    (C, chat(chat_template_kwargs={"x": "y" * 20000}), "chat_template_kwargs", "invalid_value"),
    # ---- completions
    (T, {"model": "MODEL"}, "prompt", "missing_required_parameter"),
    (T, text(prompt=[]), "prompt", "invalid_value"),
    (T, text(prompt=[[]]), "prompt[0]", "invalid_value"),
    (T, text(prompt=["x", 5]), "prompt[1]", "invalid_value"),
    (T, text(prompt=[1, "x"]), "prompt", "invalid_value"),
    (T, text(prompt=[-1]), "prompt", "invalid_value"),
    (T, text(prompt=[[1], "x"]), "prompt[1]", "invalid_value"),
    (T, text(prompt={"a": 1}), "prompt", "invalid_value"),
    (T, text(prompt=["x"] * 17), "prompt", "invalid_value"),
    (T, text(prompt=["x"] * 16, n=5), "n", "invalid_value"),
    (T, text(best_of=2, n=3), "best_of", "invalid_value"),
    (T, text(best_of=3, stream=True), "best_of", "invalid_value"),
    (T, text(logprobs=6), "logprobs", "invalid_value"),
    (T, text(logprobs=True), "logprobs", "invalid_value"),
    (T, text(echo="x"), "echo", "invalid_value"),
    # ---- tokenizer
    ("/tokenize", {}, "prompt", None),
    ("/tokenize", {"prompt": 5}, "prompt", "invalid_value"),
    ("/tokenize", {"messages": []}, "messages", "invalid_value"),
    ("/detokenize", {}, "tokens", None),
    ("/detokenize", {"tokens": ["x"]}, "tokens", "invalid_value"),
    ("/apply-template", {}, "messages", None),
    # ---- jobs
    (J, {}, ("model", "training_file"), "missing_required_parameter"),
    (J, {"model": "MODEL"}, "training_file", None),
    (J, job(training_file="file-" + "0" * 24), "training_file", "invalid_training_file"),
    (J, job(training_file="../../etc/passwd"), "training_file", "invalid_training_file"),
    (J, job(validation_file="file-" + "0" * 24), "validation_file", "invalid_validation_file"),
    (J, job(model="no-such-model"), "model", "model_not_available"),
    (J, job(suffix="a b"), "suffix", None),
    (J, job(suffix="x" * 65), "suffix", None),
    (J, job(seed=-1), "seed", None),
    (J, job(seed=2**31), "seed", None),
    (J, job(metadata={f"k{i}": "v" for i in range(17)}), "metadata", None),
    (J, job(metadata={"k": 5}), ("metadata", "metadata.k"), None),
    (J, job(method={"type": "dpo", "dpo": {}}), "method.type", "unsupported_value"),
    (J, job(method={"type": "reinforcement"}), "method.type", "unsupported_value"),
    (J, job(method={"type": "magic"}), "method.type", None),
    (J, hyper(n_epochs=0), ("method.supervised.hyperparameters.n_epochs", "n_epochs", "hyperparameters.n_epochs"), None),
    (J, hyper(n_epochs=51), ("method.supervised.hyperparameters.n_epochs", "n_epochs", "hyperparameters.n_epochs"), None),
    (J, hyper(batch_size="big"), ("method.supervised.hyperparameters.batch_size", "batch_size", "hyperparameters.batch_size"), None),
    (J, job(qlora={"rank": 0}), "qlora.rank", None),
    (J, job(qlora={"rank": 257}), "qlora.rank", None),
    (J, job(qlora={"alpha": 0}), "qlora.alpha", None),
    (J, job(qlora={"dropout": 0.91}), "qlora.dropout", None),
    (J, job(qlora={"target_modules": ["lm_head"]}), ("qlora.target_modules", "qlora.target_modules[0]"), None),
    (J, job(qlora={"lr_scheduler": "exotic"}), "qlora.lr_scheduler", None),
    (J, job(qlora={"warmup_ratio": 0.1, "warmup_steps": 3}), ("qlora.warmup_steps", "qlora.warmup_ratio"), None),
    (J, job(qlora={"quantization": {"type": "fp4"}}), ("qlora.quantization", "qlora.quantization.type"), "unsupported_value"),
    (J, job(qlora={"no_such_key": 1}), "qlora.no_such_key", None),
    # ---- exports
    (E, {}, ("model", "format"), None),
    (E, {"model": "MODEL"}, "format", None),
    (E, {"model": "MODEL", "format": "zip"}, "format", None),
    (E, {"model": "MODEL", "format": "gguf", "quantization": "q9"}, "quantization", None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].rsplit('/', 1)[-1]}-{str(c[1])[:60]}")
def test_field(daemon, model, training_file, case):
    path, body, param, code = case
    body = json.loads(json.dumps(body).replace('"MODEL"', json.dumps(model)).replace('"FILE"', json.dumps(training_file)))
    r = daemon.post(path, body)
    assert r.status == 400, r
    err = r.error
    assert err["type"] == "invalid_request_error" and err["code"] is not None and err["message"]
    assert err["param"] in (param if isinstance(param, tuple) else (param,)), err
    if code is not None:
        assert err["code"] == code, err


def test_table_is_large():
    assert len(CASES) >= 60


BODIES = [b"", b"x", b"{", b"[]", b"null", b'"x"', b"5", b'{"a":1}{', b'{"a":1,"a":2}', b'{"model":"\xff"}', b'{"model":"\\ud800"}',
          b'{"model":"\\u0000"}', b'{"seed":1e400}', b'{"seed":9223372036854775808}', b'{"seed":NaN}', b'{"seed":+1}', b"{'model':1}",
          b'{"model":"x",}', b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65, b"\xef\xbb\xbf{}", b"{} x", b"\x00"]


@pytest.mark.parametrize("body", BODIES, ids=lambda b: repr(b)[:40])
def test_not_json(daemon, body):
    for path in (C, J, E, "/tokenize"):
        r = daemon.post(path, body, headers={"Content-Type": "application/json"})
        assert r.status == 400, r
        assert r.error["code"] == "invalid_json", r


def test_content_types(daemon):
    for kind, status in (("text/plain", 415), ("application/jsonx", 415), ("application/json; charset=utf-8", 400),
                         ("multipart/form-data; boundary=x", 415), ("application/x-www-form-urlencoded", 415)):
        r = daemon.post(C, b"{}", headers={"Content-Type": kind})
        assert r.status == status, (kind, r)
    assert daemon.post(C, b"{}", headers={"Content-Type": ""}).status == 415
    assert daemon.post("/v1/files", b"{}", headers={"Content-Type": "application/json"}).status == 415
    r = daemon.post("/v1/files", b"x", headers={"Content-Type": "multipart/form-data"})
    assert r.status == 400 and r.error["param"] == "Content-Type"


UPLOADS = [
    (dict(data=None), "file"),
    (dict(data=chat_lines(), purpose=None), "purpose"),
    (dict(data=chat_lines(), purpose="magic"), "purpose"),
    (dict(data=chat_lines(), purpose="fine-tune-results"), "purpose"),
    (dict(data=b""), "file"),
    (dict(data=chat_lines(), filename="train.txt"), "file"),
    (dict(data=chat_lines(), filename=""), "file"),
    (dict(data=chat_lines(), filename="x" * 252 + ".jsonl"), "file"),
    (dict(data=chat_lines(), fields={"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}), "expires_after[anchor]"),
    (dict(data=chat_lines(), fields={"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}), "expires_after[seconds]"),
    (dict(data=chat_lines(), fields={"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"}), "expires_after[seconds]"),
    (dict(data=chat_lines(), fields={"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"}), "expires_after[seconds]"),
    (dict(data=chat_lines(), fields={"purpose": "batch"}), "purpose"),
]


@pytest.mark.parametrize("case", UPLOADS, ids=lambda c: str({k: str(v)[:20] for k, v in c[0].items()})[:70])
def test_upload(daemon, case):
    kw, param = case
    kw = dict(kw)
    fields = kw.pop("fields", None)
    r = daemon.upload(kw.pop("data"), fields=fields, **kw)
    assert r.status == 400, r
    assert r.error["param"] == param, r.error


def test_upload_two_files(daemon):
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\r\n'
    r = daemon.post("/v1/files", part + part + b"--b--", headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert r.status == 400 and r.error["param"] == "file"
    r = daemon.post("/v1/files", part, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert r.status == 400 and "closing boundary" in r.error["message"]


QUERIES = [("/v1/files?limit=x", "limit"), ("/v1/files?limit=-1", "limit"), ("/v1/files?order=up", "order"), ("/v1/files?limit=1&limit=2", "limit"),
           (J + "?limit=1.5", "limit"), (J + "?since=-1", "since"), (J + "?since=x", "since"), (J + "?status=sleeping", "status"),
           (J + "?metadata=x", "metadata"), (J + "?metadata[]=x", "metadata"), (J + "?metadata[" + "k" * 65 + "]=x", "metadata"), (E + "?limit=x", "limit"),
           (J + "/JOB/events?limit=x", "limit"), (J + "/JOB/events?stream=maybe", "stream"), (J + "/JOB/checkpoints?limit=-3", "limit")]


@pytest.mark.parametrize("case", QUERIES, ids=lambda c: c[0])
def test_query(daemon, case):
    r = daemon.get(case[0].replace("JOB", "ftjob-" + "0" * 24))
    assert r.status == 400 and r.error["param"] == case[1], r


NOT_FOUND = [("GET", "/v1/files/file-x", "id", None, "No such File object: file-x"),
             ("DELETE", "/v1/files/file-x", "id", None, "No such File object: file-x"),
             ("GET", "/v1/files/file-x/content", "id", None, "No such File object: file-x"),
             ("GET", "/v1/fine_tuning/jobs/ftjob-x", "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-x"),
             ("POST", "/v1/fine_tuning/jobs/ftjob-x/cancel", "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-x"),
             ("POST", "/v1/fine_tuning/jobs/ftjob-x/pause", "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-x"),
             ("POST", "/v1/fine_tuning/jobs/ftjob-x/resume", "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-x"),
             ("GET", "/v1/fine_tuning/jobs/ftjob-x/events", "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-x"),
             ("GET", "/v1/fine_tuning/jobs/ftjob-x/events?stream=true", "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-x"),
             ("GET", "/v1/fine_tuning/jobs/ftjob-x/checkpoints", "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-x"),
             ("GET", "/v1/models/nope", "model", "model_not_found",
              "The model `nope` does not exist or you do not have access to it."),
             ("DELETE", "/v1/models/nope", "model", "model_not_found",
              "The model `nope` does not exist or you do not have access to it."),
             ("GET", "/v1/exports/export-x", "id", None, "No such Export object: export-x"),
             ("DELETE", "/v1/exports/export-x", "id", None, "No such Export object: export-x"),
             ("GET", "/v1/exports/export-x/content", "id", None, "No such Export object: export-x")]


@pytest.mark.parametrize("case", NOT_FOUND, ids=lambda c: c[0] + c[1])
def test_not_found(daemon, case):
    method, path, param, code, message = case
    r = daemon.request(method, path)
    assert r.status == 404, r
    assert r.error == {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    for model_path in (C, T):
        r = daemon.post(model_path, {"model": "nope", "messages": M, "prompt": "x"})
        assert r.status == 404 and r.error["code"] == "model_not_found" and r.error["param"] == "model"


def test_ids_are_no_paths(daemon):
    for bad in ("..%2f..%2fadmin.token", "file-%2e%2e", "admin.token", "file-" + "a" * 24 + "%2f..", "%2e%2e%2fqlorad.db", "file-\u00e9".encode().hex()):
        for path in ("/v1/files/" + bad, "/v1/files/" + bad + "/content", "/v1/exports/" + bad + "/content?file=..%2fx", "/v1/models/" + bad):
            assert daemon.get(path).status in (400, 404), path


def test_lora_routes(daemon, model):
    r = daemon.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/etc"})
    assert r.status == 400 and r.error["param"] == "lora_path"
    r = daemon.post("/v1/load_lora_adapter", {"lora_name": "x"})
    assert r.status == 400 and r.error["param"] == "lora_path"
    r = daemon.post("/v1/unload_lora_adapter", {})
    assert r.status == 400 and r.error["param"] == "lora_name"
    assert daemon.post("/lora-adapters", [{"id": 0, "scale": 1}]).status == 400
    assert isinstance(daemon.get("/lora-adapters").json, list)
    assert daemon.get("/v1/adapters").json["object"] == "list"


def test_still_serving(daemon, model):
    assert daemon.get("/v1/models").status == 200
    assert daemon.get("/readyz", token=None).status == 200

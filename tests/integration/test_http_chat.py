"""Chat, completions and the tokenizer routes: objects, stream formats, frames sent to the engine, errors, disconnects."""
import json
import pathlib
import re
import sys
import threading
import time

import pytest

from conftest import REAL_ENGINE, Daemon

pytestmark = pytest.mark.skipif(REAL_ENGINE, reason="drives a scripted engine")
C, T = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def d(built, tmp_path_factory):
    """A daemon with the scripted engine."""
    import conftest
    tmp = tmp_path_factory.mktemp("chat")
    engine = tmp / "engine"
    engine.write_text(f"#!/bin/sh\nexec {sys.executable} {pathlib.Path(__file__).parent / 'fake_infer.py'}\n")
    engine.chmod(0o755)
    old, conftest.FAKE = conftest.FAKE, str(engine)
    daemon = Daemon(tmp).start()
    conftest.FAKE = old
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def m(d):
    return d.get("/v1/models").json["data"][0]["id"]


def say(**plan):
    return [{"role": "user", "content": json.dumps(plan)}]


def chunks(stream):
    data = stream.data()
    assert data[-1] == "[DONE]", data[-2:]
    return [json.loads(x) for x in data[:-1]]


def test_plain(d, m):
    r = d.post(C, {"model": m, "messages": say(tokens=["a", "b", "\u00e9"])})
    v = r.json
    assert set(v) == {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    assert re.fullmatch(r"chatcmpl-[0-9a-z]{24}", v["id"]) and v["object"] == "chat.completion" and v["model"] == m
    assert re.fullmatch(r"fp_[0-9a-f]{10}", v["system_fingerprint"]) and abs(v["created"] - time.time()) < 100
    assert v["choices"] == [{"index": 0, "message": {"role": "assistant", "content": "ab\u00e9", "refusal": None}, "logprobs": None,
                             "finish_reason": "stop"}]
    assert v["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 4},
                          "completion_tokens_details": {"reasoning_tokens": 0}}
    assert "x-qlora-ignored" not in r.headers
    assert r.headers["content-type"] == "application/json"


def test_stream(d, m):
    s = d.stream("POST", C, {"model": m, "messages": say(tokens=["a", "b"], reason="length"), "stream": True, "n": 2,
                             "stream_options": {"include_usage": True}})
    assert s.status == 200 and s.headers["content-type"] == "text/event-stream" and s.headers["cache-control"] == "no-store"
    got = chunks(s)
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"], c["object"]) for c in got}) == 1
    assert got[0]["object"] == "chat.completion.chunk"
    # 1. the role of each choice, in index order, once, with content null
    assert [c["choices"][0]["delta"] for c in got[:2]] == [{"role": "assistant", "content": None}] * 2
    assert [c["choices"][0]["index"] for c in got[:2]] == [0, 1]
    # 4. usage: null everywhere, then one chunk without choices
    assert all(c["usage"] is None for c in got[:-1]) and got[-1]["choices"] == [] and got[-1]["usage"]["completion_tokens"] == 4
    for i in (0, 1):
        mine = [c["choices"][0] for c in got[2:-1] if c["choices"][0]["index"] == i]
        assert [c["delta"] for c in mine] == [{"content": "a"}, {"content": "b"}, {}]
        assert [c["finish_reason"] for c in mine] == [None, None, "length"]
    s = d.stream("POST", C, {"model": m, "messages": say(), "stream": True})
    assert all("usage" not in c for c in chunks(s))


def test_stream_equals_plain(d, m):
    for n in (1, 3):
        body = {"model": m, "messages": say(tokens=["x", " \u4f60", "\n", "\U0001f600"]), "n": n}
        plain = [c["message"]["content"] for c in d.post(C, body).json["choices"]]
        got = [""] * n
        for c in chunks(d.stream("POST", C, {**body, "stream": True})):
            for ch in c["choices"]:
                got[ch["index"]] += ch["delta"].get("content") or ""
        assert got == plain


def test_logprobs(d, m):
    v = d.post(C, {"model": m, "messages": say(tokens=["a", "\u00e9"]), "logprobs": True, "top_logprobs": 2}).json
    lp = v["choices"][0]["logprobs"]
    assert lp["refusal"] is None and len(lp["content"]) == 2
    e = lp["content"][1]
    assert e["token"] == "\u00e9" and e["logprob"] == -0.5 and e["bytes"] == [0xc3, 0xa9]
    assert [set(t) for t in e["top_logprobs"]] == [{"token", "logprob", "bytes"}] * 2
    assert d.post(C, {"model": m, "messages": say(), "logprobs": True}).json["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    got = chunks(d.stream("POST", C, {"model": m, "messages": say(tokens=["a"]), "logprobs": True, "stream": True}))
    assert [c["choices"][0]["logprobs"] is None for c in got] == [True, False, True]
    # the old form
    v = d.post(T, {"model": m, "prompt": json.dumps({"tokens": ["a", "\u00e9\u00e9", "b"]}), "logprobs": 2}).json
    assert v["choices"][0]["logprobs"] == {
        "tokens": ["a", "\u00e9\u00e9", "b"], "token_logprobs": [-0.5] * 3, "text_offset": [0, 1, 3],
        "top_logprobs": [{"a": -0.5, "a~1": -1.5}, {"\u00e9\u00e9": -0.5, "\u00e9\u00e9~1": -1.5}, {"b": -0.5, "b~1": -1.5}]}
    got = chunks(d.stream("POST", T, {"model": m, "prompt": json.dumps({"tokens": ["ab", "c"]}), "logprobs": 0, "stream": True}))
    assert [c["choices"][0]["logprobs"] and c["choices"][0]["logprobs"]["text_offset"] for c in got] == [[0], [2], None]


def test_text(d, m):
    p = json.dumps({"tokens": ["x"]})
    v = d.post(T, {"model": m, "prompt": [p, p], "n": 2}).json
    assert re.fullmatch(r"cmpl-[0-9a-z]{24}", v["id"]) and v["object"] == "text_completion"
    assert [c["index"] for c in v["choices"]] == [0, 1, 2, 3]
    assert v["choices"][3] == {"text": "x", "index": 3, "logprobs": None, "finish_reason": "stop"}
    got = chunks(d.stream("POST", T, {"model": m, "prompt": p, "stream": True, "stream_options": {"include_usage": True}}))
    assert [c["object"] for c in got] == ["text_completion"] * 3
    assert got[0]["choices"] == [{"text": "x", "index": 0, "logprobs": None, "finish_reason": None}]
    assert got[1]["choices"] == [{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert got[2]["choices"] == [] and got[2]["usage"]["prompt_tokens"] == 11
    # best_of: the candidates with the best mean come first
    v = d.post(T, {"model": m, "prompt": json.dumps({"tokens": ["q"], "score": [-3, -1, -2]}), "n": 2, "best_of": 3, "logprobs": 0}).json
    assert [c["logprobs"]["token_logprobs"] for c in v["choices"]] == [[-1], [-2]] and [c["index"] for c in v["choices"]] == [0, 1]
    assert v["usage"]["completion_tokens"] == 3
    assert d.post(T, {"model": m, "prompt": json.dumps({"tokens": ["q"]}), "n": 1, "best_of": 2}).json["choices"][0]["logprobs"] is None


def frame_of(d, path, body):
    if path == C:
        body = {"messages": say(echo_frame=True), **body}
        return json.loads(d.post(C, body).json["choices"][0]["message"]["content"])
    return json.loads(d.post(T, {"prompt": json.dumps({"echo_frame": True}), **body}).json["choices"][0]["text"])


def test_frames(d, m):
    f = frame_of(d, C, {"model": m})
    assert {k: f[k] for k in ("kind", "adapter", "n", "max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
                              "repetition_penalty", "ignore_eos", "min_tokens", "logprobs", "add_generation_prompt", "continue_final_message")} == {
        "kind": "chat", "adapter": None, "n": 1, "max_tokens": 2048, "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "presence_penalty": 0,
        "frequency_penalty": 0, "repetition_penalty": 1, "ignore_eos": False, "min_tokens": 0, "logprobs": -1, "add_generation_prompt": True,
        "continue_final_message": False}
    assert "seed" not in f and "tools" not in f
    f = frame_of(d, C, {"model": m, "max_completion_tokens": 9, "max_tokens": 5, "temperature": 0, "top_p": 0, "seed": -2**63, "stop": "x",
                        "stop_token_ids": [1], "logit_bias": {"5": -100, "nonsense": 0, "6": 0.5}, "logprobs": True, "top_logprobs": 3, "top_k": 40,
                        "min_tokens": 2, "tools": [{"type": "function", "function": {"name": "f"}}], "chat_template_kwargs": {"a": 1}})
    assert f["max_tokens"] == 9 and f["temperature"] == 0 and f["seed"] == -2**63 and f["stop"] == ["x"] and f["stop_token_ids"] == [1]
    assert f["logit_bias"] == {"5": -100, "6": 0.5} and f["logprobs"] == 3 and f["tools"][0]["function"]["name"] == "f"
    assert f["chat_template_kwargs"] == {"a": 1}
    f = frame_of(d, T, {"model": m, "echo": True, "logprobs": 2})
    assert f["kind"] == "completion" and f["max_tokens"] == 16 and f["echo"] is True and f["parse_special"] is False and f["logprobs"] == 2
    f = frame_of(d, T, {"model": m, "prompt": json.dumps({"echo_frame": True}), "parse_special": True, "stop": []})
    assert f["parse_special"] is True and f["stop"] == []
    # null means absent
    assert frame_of(d, C, {"model": m, "temperature": None, "stop": None, "n": None, "tools": None, "logit_bias": None, "seed": None}) | {
        "id": 0} == frame_of(d, C, {"model": m}) | {"id": 0}


def test_ignored(d, m):
    body = {"model": m, "messages": say(), "user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "reasoning_effort": None,
            "prompt_cache_key": "k", "unknown_field": 1}
    r = d.post(C, body)
    assert r.status == 200 and set(r.headers["x-qlora-ignored"].split(", ")) == {"user", "store", "metadata", "service_tier", "prompt_cache_key"}
    s = d.stream("POST", C, {**body, "stream": True})
    assert "user" in s.headers["x-qlora-ignored"]
    chunks(s)
    assert d.post(T, {"model": m, "prompt": "x", "suffix": "s"}).headers["x-qlora-ignored"] == "suffix"
    assert d.post(C, {"model": m, "messages": say(ignored=["tools"])}).headers["x-qlora-ignored"] == "tools"
    assert d.post(C, {"model": m, "messages": say(), "response_format": {"type": "text"}, "tool_choice": "auto", "modalities": ["text"]}).status == 200


def test_engine_refuses(d, m):
    long = {"code": -5, "error_code": "context_length_exceeded", "param": "messages", "message": "4000 tokens, but the context has 2048"}
    for stream in (False, True):
        r = d.post(C, {"model": m, "messages": say(error=long), "stream": stream})
        assert r.status == 400 and r.error["code"] == "context_length_exceeded" and r.error["param"] == "messages" and "4000" in r.error["message"]
    r = d.post(C, {"model": m, "messages": say(error={"code": -16, "error_code": "queue_full", "message": "full"})})
    assert r.status == 429 and r.error["type"] == "rate_limit_error" and int(r.headers["retry-after"]) >= 1
    r = d.post(C, {"model": m, "messages": say(error={"code": -18, "error_code": "internal_error", "message": "/secret/path"})})
    assert r.status == 500 and "secret" not in r.body.decode()


def test_fails_in_the_stream(d, m):
    s = d.stream("POST", C, {"model": m, "messages": say(tokens=["a"] * 9, fail_after=2, error={"code": -11, "error_code": "engine_unavailable",
                                                                                              "message": "gone"}), "stream": True})
    assert s.status == 200
    data = s.data()
    assert data[-1] != "[DONE]"
    err = json.loads(data[-1])["error"]
    assert set(err) == {"message", "type", "param", "code"} and err["code"] == "engine_unavailable"
    assert len(data) == 1 + 2 + 1


def cancelled(d):
    return sum("cancelled" in line for line in d.log)


@pytest.mark.parametrize("stream", [False, True])
def test_disconnect_frees(d, m, stream):
    before = cancelled(d)
    body = {"model": m, "messages": say(tokens=["a"] * 1000, delay_ms=100), "stream": stream}
    if stream:
        s = d.stream("POST", C, body)
        next(iter(s))
        s.close()
    else:
        import http.client
        c = http.client.HTTPConnection("127.0.0.1", d.port)
        c.request("POST", C, json.dumps(body), {"Authorization": "Bearer " + d.token, "Content-Type": "application/json"})
        time.sleep(0.3)
        c.close()
    d.until(lambda: cancelled(d) > before, 20, "engine told")  # the answer would take 100 s


def test_slow_reader_is_cut(d, m):
    """A client that stops reading a stream is closed when 256 KiB wait for it; the engine's request is cancelled."""
    before = cancelled(d)
    s = d.stream("POST", C, {"model": m, "messages": say(tokens=["x" * 2000] * 2000), "stream": True}, timeout=30)
    d.until(lambda: cancelled(d) > before, 30, "cut")
    s.close()
    d.alive()


def test_many_streams(d, m):
    results = []

    def one(i):
        got = chunks(d.stream("POST", C, {"model": m, "messages": say(tokens=[str(i)] * 20, delay_ms=5), "stream": True}))
        results.append("".join(c["choices"][0]["delta"].get("content") or "" for c in got) == str(i) * 20)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [True] * 40


def test_heartbeat_and_metrics(d, m):
    before = d.metric("vllm:request_success_total", 'finished_reason="length"')
    d.post(C, {"model": m, "messages": say(reason="length")})
    assert d.metric("vllm:request_success_total", 'finished_reason="length"') == before + 1
    assert d.metric("vllm:time_to_first_token_seconds_count", f'model_name="{m}"') > 0


@pytest.mark.slow
def test_ping(d, m):
    s = d.stream("POST", C, {"model": m, "messages": say(tokens=["a", "b"], delay_ms=17000), "stream": True}, timeout=40)
    events = list(s)
    assert {"comment": "ping"} in events and events[-1]["data"] == "[DONE]"


def test_tokenizer(d, m):
    v = d.post("/tokenize", {"model": m, "prompt": "h\u00e9"}).json
    assert v == {"count": 3, "max_model_len": 2048, "tokens": [104, 195, 169], "token_strs": None}
    assert d.post("/v1/tokenize", {"prompt": "hi", "return_token_strs": True}).json["token_strs"] == ["h", "i"]
    assert d.post("/tokenize", {"content": "hi"}).json == {"tokens": [104, 105]}
    assert d.post("/tokenize", {"content": "h\u00e9", "with_pieces": True}).json == {
        "tokens": [{"id": 104, "piece": "h"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]}
    assert d.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]}).json["count"] > 0
    assert d.post("/detokenize", {"tokens": [104, 105]}).json == {"prompt": "hi", "content": "hi"}
    f = json.loads(d.post("/apply-template", {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False}).json["prompt"])
    assert f["kind"] == "template" and f["add_generation_prompt"] is False and f["adapter"] is None
    r = d.post("/tokenize", {"model": "nope", "prompt": "x"})
    assert r.status == 404 and r.error["code"] == "model_not_found"


def test_engine_down(make_daemon):
    d = make_daemon(env={"QLORAD_TEST_HANG": "init"}, wait_ready=False)
    m = d.get("/v1/models").json["data"][0]["id"]
    for path, body in ((C, {"model": m, "messages": say()}), (T, {"model": m, "prompt": "x"}), ("/tokenize", {"prompt": "x"})):
        r = d.post(path, body)
        assert r.status == 503 and r.error["code"] == "loading" and r.error["type"] == "server_error"
        assert 1 <= int(r.headers["retry-after"]) <= 30
    assert d.get("/readyz", token=None).status == 503
    r = d.get("/health", token=None)
    assert r.status == 503 and r.json == {"error": {"message": "Loading model", "type": "unavailable_error", "param": None, "code": "loading"}}
    assert d.get("/livez", token=None).status == 200


def test_engine_dies(make_daemon):
    d = make_daemon(env={"QLORAD_TEST_DIE": "infer"})
    m = d.get("/v1/models").json["data"][0]["id"]
    r = d.post(C, {"model": m, "messages": say()})
    assert r.status == 503 and r.error["code"] == "engine_unavailable" and int(r.headers["retry-after"]) >= 1
    d.until(lambda: d.get("/readyz", token=None).status == 200, 20, "new engine")

"""The binary's own engine on a tiny model with two templates: previews, kinds of training lines, tools and template arguments."""
import json
import re
import subprocess

import pytest

import tiny_model
from conftest import ROOT, Daemon

S, E = "<|im_start|>", "<|im_end|>"
DEFAULT = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
           "{{ '<think></think>' }}{% endif %}{% endif %}")
TOOL_USE = ("{{ '<|im_start|>tools\n' }}{% for t in tools %}{{ t['function']['name'] + ' ' }}{% endfor %}{{ '<|im_end|>\n' }}"
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% for c in m.tool_calls or [] %}"
            "{{ '<call>' + c.function.name + ' ' + (c.function.arguments | tojson) }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TOOLS = [{"type": "function", "function": {"name": "now", "description": "the time", "parameters": {"type": "object", "properties": {}}}}]


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


@pytest.fixture(scope="module")
def d(built, tmp_path_factory):
    base = tiny_model.write(tmp_path_factory.mktemp("tiny") / "tiny-llama")
    config = json.loads((base / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "default", "template": DEFAULT}, {"name": "tool_use", "template": TOOL_USE}]
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    x = Daemon(tmp_path_factory.mktemp("daemon"), ["--device", "cpu", "--threads", "1", "--model-name", "tiny"], base=base, real=True).start()
    yield x
    assert x.stop() == 0


def upload(d, lines):
    return d.upload("".join(json.dumps(line) + "\n" for line in lines).encode()).json["id"]


def preview(d, lines, query=""):
    r = d.get(f"/v1/files/{upload(d, lines)}/preview{query}")
    assert r.status == 200, r
    return r.json


def trained(x):
    assert len(x["ids"]) == len(x["target"]) == x["tokens"] and sum(x["target"]) == x["target_tokens"]
    for t in x["trained"]:
        assert x["text"].encode()[t["begin"]:t["end"]].decode() == t["text"]
    return [t["text"] for t in x["trained"]]


def test_preview(d):
    p = preview(d, [{"messages": [user("hi"), bot("yo \u00e9"), user("x"), bot("z", weight=0)]}, {"messages": [user("a")]},
                    {"messages": [user("a"), bot("b"), user("c"), bot("d")]}])
    assert p["object"] == "file.preview" and p["kind"] == "chat" and p["has_more"] is False
    a, b, c = p["examples"]
    assert a["line"] == 1 and a["text"] == f"{S}user\nhi{E}\n{S}assistant\nyo \u00e9{E}\n{S}user\nx{E}\n{S}assistant\nz{E}\n"
    assert trained(a) == [f"yo \u00e9{E}"] and a["truncated"] is False and a["dropped"] is False
    assert b == {"line": 2, "error": "no assistant message"}
    assert trained(c) == ["b" + E, "d" + E]


def test_curl_example(d):
    """The example of docs/api.md, with the port, the token and the file put in."""
    text = (ROOT / "docs" / "api.md").read_text()
    command = re.search(r"^curl .*preview.*$", text, re.M).group(0)
    command = command.replace("127.0.0.1:8177", f"127.0.0.1:{d.port}").replace("$TOKEN", d.token).replace(
        "file-…", upload(d, [{"messages": [user("a"), bot("b"), user("c"), bot("d")]}]))
    p = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stderr
    assert trained(json.loads(p.stdout)["examples"][0]) == ["d" + E]


def test_preview_takes_the_jobs_choices(d):
    lines = [{"messages": [user("a"), bot("b"), user("c"), bot("d")]}]
    assert trained(preview(d, lines, "?train_on=last")["examples"][0]) == ["d" + E]
    x = preview(d, lines, "?completion_only_loss=false")["examples"][0]
    assert trained(x) == [x["text"][len(S):]]
    x = preview(d, lines, "?max_seq_length=32")["examples"][0]
    assert x["truncated"] and x["tokens"] == 32 and x["text"].startswith(f"{S}user\na{E}\n{S}assistant\nb{E}\n") and trained(x) == ["b" + E]
    assert preview(d, lines, "?max_seq_length=32&on_overlong=drop")["examples"][0]["dropped"]
    assert "more than the 32" in preview(d, lines, "?max_seq_length=32&on_overlong=error")["examples"][0]["error"]
    p = preview(d, lines * 5, "?lines=2")
    assert len(p["examples"]) == 2 and p["has_more"]


def test_preview_of_every_kind(d):
    for kind, line, text, want in [
            ("completion", {"prompt": "1+1=", "completion": "2"}, "1+1=2", ["2"]),
            ("completion-chat", {"prompt": [user("a")], "completion": [bot("b")]}, f"{S}user\na{E}\n{S}assistant\nb{E}\n", ["b" + E]),
            ("text", {"text": "abc"}, "abc", ["bc"]),
            ("alpaca", {"instruction": "do", "input": "it", "output": "done"}, f"{S}user\ndo\n\nit{E}\n{S}assistant\ndone{E}\n", ["done" + E]),
            ("sharegpt", {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
             f"{S}system\ns{E}\n{S}user\na{E}\n{S}assistant\nb{E}\n", ["b" + E])]:
        p = preview(d, [line])
        x = p["examples"][0]
        assert p["kind"] == kind and x["text"] == text and trained(x) == want, x
        # texts and completions end with an EOS of their own
        assert x["ids"][-1] == 2 if kind in ("text", "completion") else True
    x = preview(d, [{"instruction": "do", "output": "done"}], "?alpaca_template=true")["examples"][0]
    assert x["text"].endswith("### Instruction:\ndo\n\n### Response:\ndone") and trained(x) == ["done"]


def test_preference_pairs(d):
    """Stored and shown; a job on them ends with the reason, and method dpo is refused at once."""
    lines = [{"input": {"messages": [user("q")]}, "preferred_output": [bot("good")], "non_preferred_output": [bot("bad")]}] * 12
    p = preview(d, lines + [{"input": {"messages": []}, "preferred_output": [bot("a")], "non_preferred_output": [bot("b")]}], "?lines=20")
    assert p["kind"] == "preference" and len(p["examples"]) == 13
    assert p["examples"][0] == {"line": 1, "prompt": f"{S}user\nq{E}\n{S}assistant\n", "preferred": f"good{E}\n", "non_preferred": f"bad{E}\n"}
    assert "'input'" in p["examples"][12]["error"]
    body = {"model": "tiny", "training_file": upload(d, lines)}
    r = d.post("/v1/fine_tuning/jobs", {**body, "method": {"type": "dpo"}})
    assert r.status == 400 and r.error["param"] == "method.type" and r.error["code"] == "unsupported_value"
    jid = d.post("/v1/fine_tuning/jobs", body).json["id"]
    j = d.until(lambda: (lambda x: x if x["status"] == "failed" else None)(d.get("/v1/fine_tuning/jobs/" + jid).json), 60, "failed")
    assert j["error"]["code"] == "invalid_training_file" and "there is no DPO" in j["error"]["message"]


@pytest.mark.parametrize("lines, qlora, dataset", [
    ([{"instruction": f"say {i}", "output": f"{i}!"} for i in range(12)], {}, {"examples": 12, "dropped": 0, "truncated": 0}),
    ([{"instruction": f"say {i}", "output": f"{i}!"} for i in range(12)], {"alpaca_template": True}, {"examples": 12}),
    ([{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]}] * 12,
     {"train_on": "last"}, {"examples": 12, "target_tokens": 24}),
    ([{"messages": [user("a"), bot("b" * 60)]}] * 6 + [{"messages": [user("a"), bot("b")]}] * 12, {"max_seq_length": 32},
     {"examples": 18, "truncated": 6, "max_tokens": 32}),
    ([{"messages": [user("a"), bot("b" * 60)]}] * 6 + [{"messages": [user("a"), bot("b")]}] * 12, {"max_seq_length": 32, "on_overlong": "drop"},
     {"examples": 12, "dropped": 6, "truncated": 0}),
    ([{"messages": [user("a" * 60), bot("b")]}] * 6 + [{"messages": [user("a"), bot("b"), user("c")]}] * 12, {"max_seq_length": 32},
     {"examples": 12, "dropped": 6, "trailing_dropped": 12}),
    ([{"messages": [user("a"), bot("", tool_calls=[{"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}])], "tools": TOOLS}] * 12,
     {}, {"examples": 12}),
], ids=["alpaca", "alpaca text", "last turns of sharegpt", "cut", "dropped", "no targets left", "tools"])
def test_jobs(d, lines, qlora, dataset):
    """Each trains a step; what was cut or left out is counted in the job and told in an event."""
    r = d.post("/v1/fine_tuning/jobs", {"model": "tiny", "training_file": upload(d, lines), "seed": 1, "qlora": {"rank": 2, "max_steps": 1, **qlora},
                                        "method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4}}}})
    assert r.status == 200, r
    jid = r.json["id"]
    j = d.until(lambda: (lambda x: x if x["status"] in ("succeeded", "failed") else None)(d.get("/v1/fine_tuning/jobs/" + jid).json), 60, "end")
    assert j["status"] == "succeeded", j["error"]
    got = j["qlora"]["dataset"]
    assert {k: got[k] for k in dataset} == dataset and 0 < got["target_tokens"] < got["tokens"]
    said = any("dropped" in e["message"] for e in d.get(f"/v1/fine_tuning/jobs/{jid}/events?limit=100").json["data"])
    assert said == (got["dropped"] + got["truncated"] > 0)


def test_template_of_tools_and_arguments(d):
    """The template named tool_use renders conversations with tools; chat_template_kwargs reach templates; prompts are those tokens."""
    def rendered(**body):
        r = d.post("/apply-template", {"model": "tiny", "messages": [user("hi")], **body})
        assert r.status == 200, r
        return r.json["prompt"]
    plain = f"{S}user\nhi{E}\n{S}assistant\n"
    assert rendered() == plain
    assert rendered(tools=TOOLS) == f"{S}tools\nnow {E}\n" + plain
    assert rendered(chat_template_kwargs={"enable_thinking": False}) == plain + "<think></think>"
    assert rendered(chat_template_kwargs={"enable_thinking": True}) == plain
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{\"zone\": \"CET\"}"}}
    assert rendered(messages=[user("hi"), bot("", tool_calls=[call]), {"role": "tool", "tool_call_id": "1", "content": "noon"}], tools=TOOLS) == (
        f"{S}tools\nnow {E}\n{S}user\nhi{E}\n{S}assistant\n<call>now " + '{"zone": "CET"}' + f"{E}\n{S}tool\nnoon{E}\n{S}assistant\n")
    for body in ({}, {"tools": TOOLS}, {"chat_template_kwargs": {"enable_thinking": False}}):
        n = d.post("/tokenize", {"model": "tiny", "messages": [user("hi")], **body}).json["count"]
        r = d.post("/v1/chat/completions", {"model": "tiny", "messages": [user("hi")], "max_tokens": 1, **body})
        assert r.status == 200 and r.json["usage"]["prompt_tokens"] == n, (body, r)
    r = d.post("/v1/chat/completions", {"model": "tiny", "messages": [user("hi")], "chat_template_kwargs": {"messages": []}})
    assert r.status == 400 and r.error["param"] == "chat_template_kwargs"
    r = d.post("/v1/chat/completions", {"model": "tiny", "messages": [user("hi")], "tools": [{"type": "function"}]})
    assert r.status == 400 and r.error["param"].startswith("tools")

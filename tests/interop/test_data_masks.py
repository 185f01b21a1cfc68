"""Training lines → ids and masks: ids against transformers (template, then tokenizer), masks against what they must decode to.

Environment: QL_DATA_TOOL = the helper program data_tool; QL_SMOL = a SmolLM2-135M GGUF."""
import json
import os

import pytest

from conftest import DataTool

SMOL = os.environ.get("QL_SMOL")
pytestmark = pytest.mark.skipif(not (SMOL and os.environ.get("QL_DATA_TOOL")), reason="QL_SMOL or QL_DATA_TOOL is not set")


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


CHATS = [
    [user("Hello!"), bot("Hi, how can I help?")],
    [{"role": "system", "content": "Be brief.\n"}, user("2+2?"), bot("4"), user("3+3?"), bot("6")],
    [user("a"), bot("b", weight=0), user("c"), bot("d")],
    [user("a"), bot("b"), user("c"), bot("d", weight=0)],
    [user(" leading and trailing \n\n"), bot("  spaces\n\nkept  ")],
    [user("日本語 \U0001f600 é ß"), bot("はい、\U0001f44d\u200d\U0001f4bb ok")],
    [user("numbers 1234567890"), bot("12,345.678\t\ttabs\r\n")],
    [user(""), bot("")],
    [user("code"), bot("def f(x):\n    return x ** 2\n\n\nprint(f(3))\n")],
    [user("one"), bot("x" * 500), user("two"), bot("y z " * 200)],
]


@pytest.fixture(scope="module")
def tokenizer(smol_json):
    transformers = pytest.importorskip("transformers")
    t = transformers.PreTrainedTokenizerFast(tokenizer_file=str(smol_json), eos_token="<|im_end|>")
    t.chat_template = json.loads(smol_json.with_name("tokenizer_config.json").read_text())["chat_template"]
    return t


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    t = DataTool(SMOL, tmp_path_factory.mktemp("data"))
    yield t
    t.close()


def strip(messages):
    return [{k: v for k, v in m.items() if k != "weight"} for m in messages]


def test_chat_ids_equal_transformers(tool, tokenizer):
    examples, report = tool.run([{"messages": m} for m in CHATS])
    assert report["examples"] == len(CHATS) and report["n_faults"] == 0
    for messages, x in zip(CHATS, examples):
        text = tokenizer.apply_chat_template(strip(messages), tokenize=False)
        assert x["text"] == text
        assert x["ids"] == tokenizer(text, add_special_tokens=False)["input_ids"], messages
        assert len(x["target"]) == len(x["ids"]) and x["target"][0] == 0
    assert report["tokens"] == sum(len(x["ids"]) for x in examples)
    assert report["target_tokens"] == sum(sum(x["target"]) for x in examples)


# The whole text is tokenised once, so blanks at the start of an answer join the header's line break in one token, which the
# answer has a share in: it is trained (as in TRL), and a prompt tokenised alone ends differently.
CLEAN = [m for m in CHATS if not any(x["role"] == "assistant" and x["content"].startswith(" ") for x in m)]


def test_a_token_of_header_and_answer_is_trained(tool, tokenizer):
    assert len(CLEAN) == len(CHATS) - 1
    (x,), _ = tool.run([{"messages": [user("a"), bot("  b")]}])
    ids = [i for i, t in zip(x["ids"], x["target"]) if t]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "\n  b<|im_end|>"


def test_targets_decode_to_the_answers(tool, tokenizer):
    examples, _ = tool.run([{"messages": m} for m in CLEAN])
    for messages, x in zip(CLEAN, examples):
        ids = [i for i, t in zip(x["ids"], x["target"]) if t]
        want = "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant" and m.get("weight", 1))
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == want, messages


def test_served_prompt_is_a_prefix(tool, tokenizer):
    examples, _ = tool.run([{"messages": m} for m in CLEAN])
    for messages, x in zip(CLEAN, examples):
        prompt = tokenizer.apply_chat_template(strip(messages[:-1]), tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert x["ids"][: len(ids)] == ids


def test_text_and_completion(tool, tokenizer):
    eos = tokenizer.eos_token_id
    texts = ["Once upon a time", "x", "日本", "ends<|im_end|>"]
    examples, report = tool.run([{"text": t} for t in texts])
    for t, x in zip(texts, examples):
        ids = tokenizer(t, add_special_tokens=False)["input_ids"]
        assert x["ids"] == (ids if ids[-1] == eos else ids + [eos])
        assert x["target"] == [0] + [1] * (len(x["ids"]) - 1)
    pairs = [("Q: 1+1?\nA:", " 2"), ("say ", "hello world"), ("", "alone")]
    examples, report = tool.run([{"prompt": p, "completion": c} for p, c in pairs])
    assert report["kind"] == "completion"
    for (p, c), x in zip(pairs, examples):
        whole = tokenizer(p + c, add_special_tokens=False, return_offsets_mapping=True)
        assert x["ids"] == whole["input_ids"] + [eos]
        assert x["target"][1:] == [int(end > len(p)) for _, end in whole["offset_mapping"][1:]] + [1]


def test_truncation_and_report(tool, tokenizer):
    lines = [{"messages": m} for m in CHATS]
    whole, _ = tool.run(lines)
    cut, report = tool.run(lines, max_seq_length=40)
    for a, b in zip(whole, cut):
        if b.get("dropped"):
            assert not any(a["target"][:40])
            continue
        assert b["ids"] == a["ids"][:40] and b["target"] == a["target"][:40]
    assert report["max_tokens"] == 40
    assert report["dropped"] == sum(not any(x["target"][:40]) for x in whole)
    assert report["examples"] == len(lines) - report["dropped"]

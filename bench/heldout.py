#!/usr/bin/env python3
"""heldout.py - held-out loss of models behind a running daemon, measured from outside.

    bench/heldout.py FILE.jsonl MODEL [MODEL …]

Environment: QLORAD_SERVER, and QLORAD_KEY or QLORAD_STATE_DIR (its admin.token), as for the client sub-commands.
Each conversation is tokenised by the daemon (POST /tokenize, its chat template) and sent back as a prompt to be echoed with
log-probabilities (POST /v1/completions, echo, max_tokens 0).  The loss is the mean of -log p over the tokens of the last
assistant turn, its end-of-turn token included, of all conversations together.  Prints one line per model: loss, tokens.
Only Python's standard library is needed.
"""
import json
import os
import pathlib
import sys
import urllib.request


class Server:
    def __init__(self, url=None, key=None):
        self.url = (url or os.environ.get("QLORAD_SERVER", "http://127.0.0.1:8177")).rstrip("/")
        state = os.environ.get("QLORAD_STATE_DIR")
        self.key = key or os.environ.get("QLORAD_KEY") or (
            (pathlib.Path(state) / "admin.token").read_text().strip() if state else "")

    def call(self, path, body=None):
        req = urllib.request.Request(self.url + path, headers={"Authorization": "Bearer " + self.key})
        if body is not None:
            req.data = json.dumps(body).encode()
            req.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(req, timeout=600) as r:
            return json.load(r)


def conversations(server, path):
    """[(token ids, first target, one past the last target)] of each line."""
    out = []
    for line in pathlib.Path(path).read_text().splitlines():
        messages = json.loads(line)["messages"]
        assert messages[-1]["role"] == "assistant", "the last turn must be the assistant's"
        head = server.call("/tokenize", {"messages": messages[:-1]})["tokens"]
        full = server.call("/tokenize", {"messages": messages, "add_generation_prompt": False})["tokens"]
        assert full[:len(head)] == head, "the template does not continue its own generation prompt"
        answer = server.call("/tokenize", {"prompt": messages[-1]["content"], "add_special_tokens": False})["count"]
        out.append((full, len(head), min(len(head) + answer + 1, len(full))))
    return out


def loss(server, model, items):
    total, n = 0.0, 0
    for i in range(0, len(items), 4):
        part = items[i:i + 4]
        r = server.call("/v1/completions", {"model": model, "prompt": [ids for ids, _, _ in part], "echo": True,
                                            "logprobs": 0, "max_tokens": 0})
        for choice in r["choices"]:
            _, begin, end = part[choice["index"]]
            total -= sum(choice["logprobs"]["token_logprobs"][begin:end])
            n += end - begin
    return total / n, n


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    server = Server()
    items = conversations(server, sys.argv[1])
    for model in sys.argv[2:]:
        value, n = loss(server, model, items)
        print(f"{value:.4f} {n} {model}", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""An engine (daemon/ipc.h) that does what the request's text says, for tests of the HTTP side of inference.

The last message's content, or the prompt, is a JSON object:
  tokens: [text…]      one delta each (default ["Hello", " world"])      delay_ms: between them
  logprobs: true       entries with bytes and alternatives                reason: "stop" | "length"
  error: {…}           infer_error before anything; fail_after: N: after N deltas
  echo_frame: true     the answer's text is the infer frame itself, as JSON
Cancelled ids are told on stderr."""
import json
import os
import select
import struct
import sys
import time

FD = 3
out = bytearray()


def send(frame):
    data = json.dumps(frame).encode()
    os.write(FD, struct.pack("<I", len(data)) + data)


def entry(text, n):
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()),
            "top": [{"token": text if i == 0 else f"{text}~{i}", "logprob": -0.5 - i, "bytes": list(text.encode())} for i in range(n)]}


class Request:
    def __init__(self, f):
        self.f, self.id = f, f["id"]
        prompts = f.get("prompts") or [f["messages"][-1]["content"]]
        self.plans = []
        for p in prompts:
            try:
                plan = json.loads(p) if isinstance(p, str) else {}
                plan = plan if isinstance(plan, dict) else {}
            except ValueError:
                plan = {}
            self.plans += [plan] * f["n"]
        if self.plans[0].get("echo_frame"):
            self.plans = [{"tokens": [json.dumps(f)]}]
        self.at, self.due, self.sent = 0, time.monotonic(), 0

    def step(self):
        """One round of tokens; True when the request is over."""
        error = self.plans[0].get("error")
        if error and self.at >= self.plans[0].get("fail_after", 0):
            send({"type": "infer_error", "id": self.id, **error})
            return True
        live = False
        for index, plan in enumerate(self.plans):
            tokens = plan.get("tokens", ["Hello", " world"])[:self.f["max_tokens"]]
            if self.at < len(tokens):
                live = True
                n = self.f["logprobs"]
                lp = [entry(tokens[self.at], n)] if n >= 0 else None
                if lp and plan.get("score"):
                    lp[0]["logprob"] = plan["score"][index % len(plan["score"])]
                send({"type": "delta", "id": self.id, "index": index, "text": tokens[self.at], "tokens": 1, "logprobs": lp})
                self.sent += 1
            elif self.at == len(tokens):
                send({"type": "finish", "id": self.id, "index": index, "reason": plan.get("reason", "stop")})
        self.at += 1
        self.due = time.monotonic() + self.plans[0].get("delay_ms", 0) / 1000
        if live:
            return False
        done = {"type": "infer_done", "id": self.id, "prompt_tokens": 11, "completion_tokens": self.sent, "cached_tokens": 4}
        if self.plans[0].get("ignored"):
            done["ignored"] = self.plans[0]["ignored"]
        send(done)
        return True


def one_shot(f):
    kind = f["kind"]
    if kind == "tokenize":
        text = f.get("prompt") or json.dumps(f.get("messages"))
        result = {"tokens": list(text.encode()), "max_model_len": 2048}
        if f.get("pieces"):
            result["pieces"] = [chr(b) if b < 128 else [b] for b in text.encode()]
    elif kind == "detokenize":
        result = {"text": bytes(t & 127 for t in f["tokens"]).decode()}
    else:
        result = {"text": json.dumps(f)}
    send({"type": "infer_result", "id": f["id"], "result": result})


def main():
    requests = {}
    buf = b""
    while True:
        wait = min([max(0.0, r.due - time.monotonic()) for r in requests.values()] + [1.0])
        if select.select([FD], [], [], wait)[0]:
            part = os.read(FD, 1 << 20)
            if not part:
                return
            buf += part
        while len(buf) >= 4 and len(buf) >= 4 + struct.unpack("<I", buf[:4])[0]:
            n = struct.unpack("<I", buf[:4])[0]
            f, buf = json.loads(buf[4:4 + n]), buf[4 + n:]
            kind = f["type"]
            if kind == "init":
                send({"type": "ready", "model": {
                    "name": "fake", "family": "llama", "parameters": 1000, "layers": 1, "hidden_size": 8, "context": 2048, "vocab_size": 49152,
                    "has_template": True, "quantization": {"type": "nf4", "block_size": 64, "double_quant": True}, "base_sha256": "b",
                    "tokenizer_sha256": "t", "template_sha256": "c"}, "device": "fake", "build": "fake", "memory": {}})
            elif kind == "ping":
                send({"type": "pong", "n": f["n"]})
            elif kind == "infer" and f["kind"] in ("chat", "completion"):
                requests[f["id"]] = Request(f)
            elif kind == "infer":
                one_shot(f)
            elif kind == "infer_cancel":
                requests.pop(f["id"], None)
                print("cancelled", f["id"], file=sys.stderr, flush=True)
            elif kind == "drain":
                return
        now = time.monotonic()
        for r in [r for r in requests.values() if r.due <= now]:
            if r.step():
                requests.pop(r.id, None)


if __name__ == "__main__":
    main()

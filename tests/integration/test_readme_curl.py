"""The README's curl examples, run as printed against a real daemon on SmolLM2: only the port, the token's path and the number of
steps are put in.  Needs QL_SMOL, bash and curl."""
import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT, Daemon

SMOL = os.environ.get("QL_SMOL")
pytestmark = [pytest.mark.skipif(not SMOL, reason="QL_SMOL is not set"),
              pytest.mark.skipif(not shutil.which("curl"), reason="no curl")]


def block():
    text = (ROOT / "README.md").read_text()
    m = re.search(r"<!-- curl: begin.*?```sh\n(.*?)```\n<!-- curl: end -->", text, re.S)
    assert m, "the README has no block of curl examples"
    return m.group(1)


def test_curl_examples_work_as_printed(built, tmp_path):
    d = Daemon(tmp_path, ["--device", "cpu", "--threads", "2", "--model-name", "smollm2-135m"], base=SMOL, real=True).start()
    script = block()
    for old, new in (("127.0.0.1:8177", f"127.0.0.1:{d.port}"), ("state/admin.token", str(d.state / "admin.token")),
                     ("examples/pirate.jsonl", str(ROOT / "examples" / "pirate.jsonl")),
                     ('"rank":16,', '"rank":16,"max_steps":4,"warmup_steps":0,')):
        assert old in script
        script = script.replace(old, new)
    script += '\necho; echo "MODEL=$MODEL"; echo "NAME=$NAME"\n'
    try:
        p = subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    finally:
        assert d.stop() == 0
    assert p.returncode == 0, p.stdout[-3000:] + p.stderr[-3000:] + "".join(d.log[-20:])
    out = p.stdout
    assert '"error":{' not in out, out
    assert '"id":"smollm2-135m"' in out and "Paris" in out
    assert "The job has successfully completed" in out and out.count("data: [DONE]") == 2
    assert re.search(r"MODEL=ft:smollm2-135m:qlorad:pirate:\w{8}\n", out)
    name = re.search(r"NAME=(\S+\.gguf)\n", out).group(1)
    assert "Q8_0" in name.upper()
    assert (tmp_path / "pirate.gguf").read_bytes()[:4] == b"GGUF" and (tmp_path / "pirate.gguf").stat().st_size > 100e6

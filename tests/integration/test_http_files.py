"""Files: the life of an upload, paging, ranges, deletion, repeats."""
import hashlib
import os
import socket

import pytest

from conftest import chat_lines

FIELDS = {"id", "object", "bytes", "created_at", "filename", "purpose", "status"}


def test_life(daemon):
    data = chat_lines(20)
    r = daemon.upload(data, filename="my set \u00e9.jsonl")
    assert r.status == 200, r
    f = r.json
    assert FIELDS <= set(f) and all(f[k] is not None for k in FIELDS)
    assert f["object"] == "file" and f["bytes"] == len(data) and f["purpose"] == "fine-tune" and f["status"] == "processed"
    assert f["filename"] == "my set \u00e9.jsonl" and f["id"].startswith("file-") and len(f["id"]) == 29
    assert daemon.get("/v1/files/" + f["id"]).json == f
    r = daemon.get(f"/v1/files/{f['id']}/content")
    assert r.body == data and r.headers["content-type"] == "application/octet-stream"
    assert r.headers["etag"] == '"' + hashlib.sha256(data).hexdigest() + '"'
    assert "attachment" in r.headers["content-disposition"]
    assert daemon.get(f"/v1/files/{f['id']}/content", headers={"If-None-Match": r.headers["etag"]}).status == 304
    assert daemon.delete("/v1/files/" + f["id"]).json == {"id": f["id"], "object": "file", "deleted": True}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        assert daemon.request(method, f"/v1/files/{f['id']}{path}").status == 404


@pytest.mark.parametrize("size", [1, 2, 8191, 8192, 16384, 65536, 1 << 20, (3 << 20) + 7])
def test_bytes_are_kept(daemon, size):
    data = os.urandom(size)
    f = daemon.upload(data, purpose="user_data", filename="x.bin").json
    assert f["bytes"] == size
    assert daemon.get(f"/v1/files/{f['id']}/content").body == data
    daemon.delete("/v1/files/" + f["id"])


def test_preview(daemon, tmp_path):
    """The route: what reaches the engine, and every refusal.  (What the engine answers: test_real_data.py.)"""
    f = daemon.upload(chat_lines(3)).json
    path = f"/v1/files/{f['id']}/preview"
    r = daemon.get(path)
    assert r.status == 200, r
    assert r.json["object"] == "file.preview" and r.json["id"] == f["id"] and r.json["kind"] == "chat" and r.json["has_more"] is False
    asked = r.json["examples"][0]
    assert asked["file"] == "files/" + f["id"] and asked["lines"] == 10
    assert asked["recipe"] == {"completion_only_loss": True, "alpaca_template": False}
    r = daemon.get(path + "?lines=100&max_seq_length=32&on_overlong=drop&train_on=last&completion_only_loss=false&alpaca_template=true")
    assert r.json["examples"][0]["lines"] == 100
    assert r.json["examples"][0]["recipe"] == {"max_seq_length": 32, "on_overlong": "drop", "train_on": "last", "completion_only_loss": False,
                                               "alpaca_template": True}
    for query, param in [("lines=0", "lines"), ("lines=101", "lines"), ("lines=x", "lines"), ("lines=1&lines=2", "lines"),
                         ("max_seq_length=31", "max_seq_length"), ("max_seq_length=16777217", "max_seq_length"), ("on_overlong=cut", "on_overlong"),
                         ("train_on=first", "train_on"), ("completion_only_loss=2", "completion_only_loss"), ("alpaca_template=maybe", "alpaca_template")]:
        r = daemon.get(path + "?" + query)
        assert r.status == 400 and r.error["param"] == param, (query, r)
    assert daemon.get(path.replace(f["id"], "file-" + "0" * 24)).status == 404
    other = daemon.upload(b"x", purpose="user_data", filename="x.bin").json["id"]
    r = daemon.get(f"/v1/files/{other}/preview")
    assert r.status == 400 and r.error["param"] == "id"
    daemon.delete("/v1/files/" + f["id"])
    assert daemon.get(path).status == 404


def test_boundary_like_bytes(daemon):
    data = b"\r\n--\r\n\r\n----b\r\n" * 3000 + b"\r"
    body = (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b\r\n'
            b'Content-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + data.replace(b"--b", b"--c") + b"\r\n--b--\r\n")
    f = daemon.post("/v1/files", body, headers={"Content-Type": 'multipart/form-data; boundary="b"'}).json
    assert daemon.get(f"/v1/files/{f['id']}/content").body == data.replace(b"--b", b"--c")


def test_ranges(daemon):
    data = bytes(range(256)) * 40
    fid = daemon.upload(data, purpose="user_data", filename="r").json["id"]
    path, n = f"/v1/files/{fid}/content", len(data)
    for value, first, last in (("bytes=0-0", 0, 0), ("bytes=5-9", 5, 9), ("bytes=100-", 100, n - 1), ("bytes=-10", n - 10, n - 1),
                               (f"bytes=0-{n * 2}", 0, n - 1)):
        r = daemon.get(path, headers={"Range": value})
        assert r.status == 206 and r.body == data[first:last + 1]
        assert r.headers["content-range"] == f"bytes {first}-{last}/{n}"
    for value in ("bytes=0-1,4-5", "lines=0-1", "bytes=x"):
        r = daemon.get(path, headers={"Range": value})
        assert r.status == 200 and r.body == data
    r = daemon.get(path, headers={"Range": f"bytes={n}-"})
    assert r.status == 416 and r.headers["content-range"] == f"bytes */{n}"
    r = daemon.request("HEAD", path)
    assert r.status == 200 and int(r.headers["content-length"]) == n


def test_paging(make_daemon):
    d = make_daemon()
    empty = d.get("/v1/files").json
    assert empty == {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
    ids = [d.upload(b"x", purpose="user_data" if i % 2 else "batch", filename=f"f{i}").json["id"] for i in range(7)]
    got, after = [], ""
    while True:
        page = d.get("/v1/files?limit=3" + (f"&after={after}" if after else "")).json
        got += [f["id"] for f in page["data"]]
        assert page["first_id"] == page["data"][0]["id"] and page["last_id"] == page["data"][-1]["id"]
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert got == ids[::-1]
    assert [f["id"] for f in d.get("/v1/files?order=asc").json["data"]] == ids
    assert [f["id"] for f in d.get("/v1/files?purpose=batch&order=asc").json["data"]] == ids[::2]
    unknown = d.get("/v1/files?after=file-nothing").json
    assert unknown["data"] == [] and unknown["has_more"] is False
    d.delete("/v1/files/" + ids[3])
    assert ids[3] not in [f["id"] for f in d.get("/v1/files").json["data"]]
    # after a restart all is as it was
    before = d.get("/v1/files").json
    assert d.stop() == 0
    d.start()
    assert d.get("/v1/files").json == before


def test_expiry(daemon):
    r = daemon.upload(b"x", purpose="user_data", filename="e", fields={"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    f = r.json
    assert f["expires_at"] == f["created_at"] + 3600
    daemon.sql("UPDATE files SET expires_at = 1 WHERE id = ?", f["id"])
    assert daemon.get("/v1/files/" + f["id"]).status == 404


def test_repeats(daemon):
    data = chat_lines(11)
    key = {"Idempotency-Key": "upload-1"}
    a = daemon.upload(data, headers=key)
    b = daemon.upload(data, headers=key)   # another boundary, the same content
    assert a.status == b.status == 200 and a.json == b.json
    assert "idempotent-replayed" not in a.headers and b.headers["idempotent-replayed"] == "true"
    c = daemon.upload(data + b"\n", headers=key)
    assert c.status == 422 and c.error["code"] == "idempotency_key_reused"
    # official clients count attempts instead
    d = daemon.upload(data, filename="again.jsonl")
    e = daemon.upload(data, filename="again.jsonl", headers={"x-stainless-retry-count": "1"})
    assert d.json["id"] == e.json["id"]
    assert daemon.upload(data, filename="again.jsonl").json["id"] != d.json["id"]
    for bad in ("x" * 256, "a b", "\x7f"):
        r = daemon.upload(data, headers={"Idempotency-Key": bad})
        assert r.status == 400, bad


def test_over_the_limit(make_daemon):
    d = make_daemon(["--upload-max-bytes", "1048576"])
    assert d.upload(b"x" * (1 << 20), purpose="user_data", filename="f").status == 200
    r = d.upload(b"x" * ((1 << 20) + 1), purpose="user_data", filename="f")
    assert r.status == 413 and r.error["code"] == "request_too_large"
    assert len(d.get("/v1/files").json["data"]) == 1
    left = [p.name for p in (d.state / "files").iterdir()]
    assert len(left) == 1, left   # no temporary file stays


def test_cut_upload_leaves_nothing(daemon):
    before = sorted(p.name for p in (daemon.state / "files").iterdir())
    s = socket.create_connection(("127.0.0.1", daemon.port))
    s.sendall(f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {daemon.token}\r\nContent-Length: 500000\r\n"
              "Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode() +
              b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"y" * 100000)
    daemon.until(lambda: len(list((daemon.state / "files").iterdir())) > len(before), 10, "temporary file")
    s.close()
    daemon.until(lambda: sorted(p.name for p in (daemon.state / "files").iterdir()) == before, 10, "temporary file removed")

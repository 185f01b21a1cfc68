"""R22: every route with every kind of token, read from the route table of api/routes.c; the failure limit; no secrets in logs."""
import time

import pytest

from test_http_routes import forms, table


@pytest.fixture(scope="module")
def tokens(daemon):
    t = {"i": daemon.make_token("infer")[0], "t": daemon.make_token("train")[0], "a": daemon.make_token("admin")[0],
         "other": daemon.make_token("infer,train", project="other")[0]}
    t["expired"], key = daemon.make_token("admin")
    daemon.sql("UPDATE tokens SET expires_at = ? WHERE id = ?", int(time.time()) - 1, key)
    t["revoked"], key = daemon.make_token("admin")
    p = daemon.cli("token", "revoke", key, "--state-dir", str(daemon.state))
    assert p.returncode == 0, p.stderr
    return t


BAD = {"none": None, "empty": "", "text": "x", "long": "qlo_" + "A" * 5000, "unknown": "qlo_" + "A" * 43, "short": "qlo_" + "A" * 42}


@pytest.mark.parametrize("row", table(), ids=lambda r: r[0] + r[1])
def test_matrix(daemon, tokens, row):
    method, pattern, scope, bare, body = row
    send = {} if body in ("QL_BODY_JSON", "QL_BODY_OPTIONAL") else None
    for path in forms(pattern, bare):
        def ask(token):
            return daemon.request(method, path, body=send, token=token)
        if scope == "PUBLIC":
            assert ask(None).status not in (401, 403)
            assert ask("qlo_" + "A" * 43).status not in (401, 403)
            continue
        texts = set()
        for kind in ("expired", "revoked"):
            r = ask(tokens[kind])
            assert r.status == 401 and r.error["code"] == "invalid_api_key", (kind, r)
            texts.add(r.body)
        assert len(texts) == 1 and tokens["revoked"].encode() not in texts.pop()
        need = {"I": "i", "T": "t", "A": "a"}[scope]
        for have in ("i", "t", "a"):
            r = ask(tokens[have])
            if have == need or have == "a":
                assert r.status not in (401, 403), (have, r)
            else:
                assert r.status == 403 and r.error["code"] == "insufficient_scope", (have, r)


def test_bad_tokens_one_text(make_daemon):
    d = make_daemon()
    texts = set()
    for name, token in BAD.items():
        r = d.get("/v1/models", token=token)
        assert r.status == 401, (name, r)
        assert r.headers["www-authenticate"] == "Bearer"
        texts.add(r.body)
    for header in ("Basic eDp5", "Bearer", "Bearer  ", d.token, "bearer" + d.token, "Bearer " + d.token + " x"):
        r = d.get("/v1/models", token=None, headers={"Authorization": header})
        assert r.status == 401, (header, r)
        texts.add(r.body)
    assert len(texts) == 1 and b"Incorrect API key provided." in texts.pop()
    assert d.get("/v1/models", token=None, headers={"Authorization": "bearer " + d.token}).status == 200
    # 401 comes before routing: unknown URLs and methods tell nothing without a token
    assert d.get("/v1/nothing", token=None).status == 401
    assert d.request("PUT", "/v1/models", token=None).status == 401


def test_failure_limit(make_daemon):
    d = make_daemon()
    seen = []
    for _ in range(25):
        seen.append(d.get("/v1/models", token="qlo_" + "B" * 43, source="127.0.0.9"))
    codes = [r.status for r in seen]
    assert codes[:20] == [401] * 20 and codes[-1] == 429, codes
    assert seen[-1].headers["retry-after"] == "60" and seen[-1].headers["x-should-retry"] == "false"
    assert seen[-1].error["type"] == "rate_limit_error" and seen[-1].error["code"] == "rate_limit_exceeded"
    assert d.get("/livez", token=None, source="127.0.0.9").status == 200
    assert d.get("/v1/models").status == 200   # another address
    assert d.metric("qlorad_http_rejected_total", 'reason="auth"') >= 25
    assert sum("127.0.0.9" in line for line in d.log) == 1, "the log says it once"


def test_projects(daemon, tokens, training_file):
    """Another project's object answers exactly as a missing one."""
    missing = "file-" + "0" * 24

    def same(method, path, **kw):
        a = daemon.request(method, path.replace("ID", training_file), token=tokens["other"], **kw)
        b = daemon.request(method, path.replace("ID", missing), token=tokens["other"], **kw)
        assert a.status == b.status == 404
        assert a.body.replace(training_file.encode(), missing.encode()) == b.body
    same("GET", "/v1/files/ID")
    same("GET", "/v1/files/ID/content")
    same("GET", "/v1/files/ID/preview")
    same("DELETE", "/v1/files/ID")
    assert daemon.get("/v1/files/" + training_file, token=tokens["t"]).status == 200
    assert training_file not in daemon.get("/v1/files", token=tokens["other"]).body.decode()


def test_no_secrets_in_log(daemon, tokens):
    daemon.get("/v1/models?key=" + tokens["t"], token=tokens["t"])
    daemon.get("/v1/files/" + tokens["t"], token=tokens["t"])
    text = "".join(daemon.log)
    for token in [daemon.token, *tokens.values()]:
        assert token not in text
        assert token[4:20] not in text


def test_no_auth(make_daemon):
    d = make_daemon(["--no-auth"])
    assert d.get("/v1/models", token=None).status == 200
    assert d.get("/v1/models", token=None, headers={"Host": "evil.example"}).status == 403

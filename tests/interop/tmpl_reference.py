"""The reference for chat templates: jinja2 configured as transformers does it, and a client of our tmpl_tool."""
import datetime
import json
import os
import subprocess

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

NOW = 1753437600


class Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %}: the body, in a scope of its own."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_run"), [], [], body).set_lineno(line)

    def _run(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    """Refuses underscore attributes, as transformers' does."""

    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attrs = dict(*args, **kwargs)
        for name in attrs:
            Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, attrs)

    def __setitem__(self, name, value):
        Namespace._check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError("underscore attribute")


class Dict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(NOW).strftime(f)
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    return env


ENV = environment()
_compiled = {}


def reference(template, variables):
    """("ok", text) or ("error", message, is_raise)."""
    try:
        if template not in _compiled:
            _compiled[template] = ENV.from_string(template)
        return "ok", _compiled[template].render(**variables)
    except Exception as error:  # noqa: BLE001 - whatever Python raises, we must refuse too
        return "error", str(error), type(error) is jinja2.exceptions.TemplateError


class Tool:
    def __init__(self):
        path = os.environ["QL_TMPL_TOOL"]
        self.proc = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, template, variables, trusted=None, normalize=False):
        request = {"template": template, "vars": variables, "trusted": trusted or {}, "now": NOW, "normalize": normalize}
        self.proc.stdin.write(json.dumps(request, ensure_ascii=False).encode() + b"\n")
        self.proc.stdin.flush()
        line = self.proc.stdout.readline()
        assert line, "tmpl_tool ended"
        return json.loads(line)

    def close(self):
        self.proc.stdin.close()
        self.proc.wait(10)

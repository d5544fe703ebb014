"""Who may call a page: every way of saying so protects, and what cannot be decided is not served."""

# ruff: noqa: E501  # tables of page sources, one a line

from __future__ import annotations

import base64
import itertools

import pytest
from access_rules import (
    BEFORE,
    DEFINITIONS,
    HIDERS,
    PRELUDE,
    PROTECTED_FROM_OUTSIDE,
    SIGNATURES,
    UNDECIDABLE,
    WRAPPERS,
    page,
)
from fake_request import Request, make_page
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.security import generate_password_hash

from handlers import publisher
from handlers.errors import Undecidable
from handlers.pages.credentials import Credentials, basic_credentials, password_matches


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


SPAM = basic("spam", "eggs")
WRONG = basic("spam", "spam")


@pytest.fixture
def visit(monkeypatch):
    """Ask for a path of a page made from source: the status, and the request in `visit.req`."""

    made = {}

    def ask(source, path="page", headers=None, **request):
        module = made.get(source) or made.setdefault(source, make_page(source))
        monkeypatch.setattr(publisher, "page_module", lambda req, filename: module)
        ask.req = req = Request(headers=headers, **request)
        req.path_info = "/" + path
        status = publisher.handler(req)
        return req.status if status == 0 else status

    return ask


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_definition_in_the_body_protects_however_the_function_is_wrapped(visit, definition, before, wrapper):
    pages = [page(DEFINITIONS[definition], BEFORE[before], signature, WRAPPERS[wrapper]) for signature in SIGNATURES]
    functions = [text.removeprefix(PRELUDE).replace("def page", f"def page{i}") for i, text in enumerate(pages)]
    source = PRELUDE + "".join(functions)
    for number, signature in enumerate(SIGNATURES):
        name = f"page{number}"
        assert visit(source, name) == 401, signature
        assert visit.req.written == b""
        assert visit(source, name, headers=WRONG) == 401, signature
        assert visit(source, name, headers=SPAM) == 200, signature
        assert visit.req.written == b"secret"


@pytest.mark.parametrize("wrapper", HIDERS)
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_wrapper_that_hides_the_function_is_not_served(visit, definition, wrapper):
    for headers in (None, SPAM):
        assert visit(page(DEFINITIONS[definition], wrapper="@" + wrapper), headers=headers) == 500
        assert visit.req.written == b""
        assert "is not served" in visit.req.logged[0]


@pytest.mark.parametrize("wrapper", HIDERS)
def test_an_alias_that_hides_the_function_is_not_served(visit, wrapper):
    source = page("__auth__ = USERS").replace("def page", "def _inner") + f"\nother = {wrapper}(_inner)\npage = other\n"
    assert visit(source, headers=SPAM) == 500
    assert visit.req.written == b""


@pytest.mark.parametrize("definition", UNDECIDABLE)
def test_a_definition_that_cannot_be_decided_is_not_served(visit, definition):
    for headers in (None, SPAM):
        assert visit(page(definition), headers=headers) in (401, 500)
        assert visit.req.written == b""
    assert visit(page(definition), headers=SPAM) == 500


@pytest.mark.parametrize(
    "rule", ["lambda: True", "lambda req: True", "lambda req, user: True", "lambda a, b, c, d: True"]
)
def test_a_rule_with_other_arguments_than_the_documented_ones_lets_nobody_in(visit, rule):
    with pytest.raises(TypeError):
        visit(f"def page(req):\n    __auth__ = {rule}\n    return 'secret'", headers=SPAM)
    assert visit.req.written == b""


def test_a_rule_that_is_a_coroutine_function_is_not_served(visit):
    assert visit("async def __auth__(req, user, password):\n    return False\ndef page(req):\n    return 'secret'",
                 headers=SPAM) == 500  # fmt: skip
    assert visit.req.written == b""


@pytest.mark.parametrize("kind", PROTECTED_FROM_OUTSIDE)
def test_a_definition_outside_of_the_body_protects(visit, kind):
    source = PRELUDE + PROTECTED_FROM_OUTSIDE[kind]
    assert visit(source) == 401
    assert visit(source, headers=WRONG) == 401
    assert visit.req.written == b""
    assert visit(source, headers=SPAM) == 200
    assert visit.req.written == b"secret"


def test_a_method_hidden_by_its_decorator_is_not_served(visit):
    source = PRELUDE + "class Page:\n    @boxed\n    def run(self, req):\n        __auth__ = USERS\npage = Page()"
    assert visit(source, "page/run", headers=SPAM) == 500


@pytest.mark.parametrize(
    "source",
    [
        "page = Memo\npage = registered(_inner)\nbox.part = page",
        "class Registered:\n    def __call__(self, req): return REGISTRY['page'](req)\n"
        "def register(function):\n    REGISTRY['page'] = function\n    return Registered()\n"
        "box.part = register(_inner)",
        "Box.part = registered(_inner)",
        "box.inner = Box()\nbox.inner.part = registered(_inner)\npart = box.inner.part\n",
    ],
)
def test_what_hides_a_protected_function_is_not_served_as_a_part_either(visit, source):
    source = page("__auth__ = USERS").replace("def page", "def _inner") + f"class Box: pass\nbox = Box()\n{source}\n"
    path = "box/inner/part" if "inner.part" in source else "box/part"
    assert visit(source, path, headers=SPAM) == 500
    assert visit.req.written == b""


ADMIN = """
import functools
def naive(function):
    def wrapper(*args, **kwargs): return function(*args, **kwargs)
    return wrapper
class Base:
    __auth__ = {'spam': 'eggs'}
class Admin(Base):
    def page(self=None, req=None): return 'secret'
    @staticmethod
    def fixed(req): return 'secret'
    @classmethod
    def of_class(cls, req): return 'secret'
    @naive
    def wrapped(self=None, req=None): return 'secret'
class Own:
    def page(self, req): return 'secret'
own = Own()
own.__auth__ = {'spam': 'eggs'}
class Asks:
    def __auth__(self, req, user, password): return (user, password) == ('spam', 'eggs')
    def page(self, req): return 'secret'
    @staticmethod
    def fixed(req): return 'secret'
class Gone:
    __access__ = False
    @staticmethod
    def page(req): return 'secret'
"""


@pytest.mark.parametrize(
    "value", ["Admin().page", "Admin.fixed", "Admin.of_class", "functools.partial(Admin().page)", "naive(Admin().page)",
              "Admin().wrapped", "functools.lru_cache(Admin.fixed)", "own.page", "Asks().page"]
)  # fmt: skip
def test_a_method_under_another_name_is_protected_by_its_class_and_instance(visit, value):
    for headers, status in ((None, 401), (WRONG, 401), (SPAM, 200)):
        assert visit(f"{ADMIN}\npage = {value}\n", headers=headers) == status
        assert (visit.req.written == b"secret") == (status == 200)


def test_a_method_whose_class_cannot_be_asked_any_more_is_not_served(visit):
    for source in ("page = Asks.fixed", "page = Gone.page\ndel Gone", "page = Gone.page\nclass Gone: pass"):
        assert visit(f"{ADMIN}\n{source}\n", headers=SPAM) == 500
        assert visit.req.written == b""


def test_a_class_decorator_that_loses_the_rules_is_not_served(visit):
    source = PRELUDE + (
        "def lossy(cls):\n    class Fresh:\n        def __call__(self, req):\n            return 'secret'\n    return Fresh()\n"
        "@lossy\nclass page:\n    __auth__ = USERS\n"
    )
    assert visit(source, headers=SPAM) == 500


def test_a_function_that_calls_a_protected_one_is_the_authors_own_decision(visit):
    source = page("__auth__ = USERS") + "def opened(req):\n    return 'opened'\ndef calls(req):\n    return page(req)\n"
    assert visit(source, "opened") == 200
    assert visit(source, "calls") == 200


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ("['spam']", 200),
        ("('spam', 'x')", 200),
        ("{'spam'}", 200),
        ("['other']", 403),
        ("[]", 403),
        ("lambda req, user: user == 'spam'", 200),
        ("lambda req, user: False", 403),
        ("True", 200),
        ("0", 403),
        ("None", 403),
        ("'spam'", 500),
    ],
)
def test_access_rules_of_every_kind(visit, rule, status):
    source = f"__auth__ = {{'spam': 'eggs'}}\ndef page(req):\n    x = 2\n    __access__ = {rule}\n    return 'secret'\n"
    assert visit(source, headers=SPAM) == status
    assert visit(source) == 401
    assert (
        visit(f"__auth__ = {{'spam': 'eggs'}}\n__access__ = {rule}\ndef page(req):\n    return ''", headers=SPAM)
        == status
    )


@pytest.mark.parametrize("auth", ["", "__auth__ = True\n", "__auth__ = 1\n"])
@pytest.mark.parametrize("access", ["['spam']", "lambda req, user: user == 'spam'"])
def test_access_does_not_believe_a_name_that_nobody_verified(visit, auth, access):
    assert visit(f"{auth}__access__ = {access}\ndef page(req):\n    return 'secret'", headers=SPAM) == 403
    assert visit.req.written == b""


def test_access_believes_apaches_own_authentication(visit, monkeypatch):
    monkeypatch.setattr(Request, "auth_type", lambda self: "Basic")
    source = "__access__ = ['spam']\ndef page(req):\n    return 'secret'"
    assert visit(source) == 403
    made = Request.__init__

    def authenticated(self, **settings):
        made(self, **settings)
        self.user, self.ap_auth_type = "spam", "Basic"

    monkeypatch.setattr(Request, "__init__", authenticated)
    assert visit(source) == 200


def test_every_level_must_agree(visit):
    levels = itertools.product(["{'spam': 'eggs'}", "{'spam': 'other'}", "{'other': 'eggs'}"], repeat=2)
    for outer, inner in levels:
        source = f"__auth__ = {outer}\ndef page(req):\n    __auth__ = {inner}\n    return 'secret'\n"
        agreed = outer == inner == "{'spam': 'eggs'}"
        assert visit(source, headers=SPAM) == (200 if agreed else 401)


@pytest.mark.parametrize("constant", ["False", "0", "None", "{}"])
def test_an_auth_that_is_false_lets_nobody_in(visit, constant):
    assert visit(f"def page(req):\n    __auth__ = {constant}\n    return 'secret'\n", headers=SPAM) == 401


@pytest.mark.parametrize(
    ("realm", "header"),
    [
        ("", 'Basic realm="unknown"'),
        ("__auth_realm__ = 'Staff'\n", 'Basic realm="Staff"'),
        ("__auth_realm__ = 'a \"b\" \\\\ \\r\\nSet-Cookie: x'\n", 'Basic realm="a \\"b\\" \\\\ Set-Cookie: x"'),
    ],
)
def test_the_realm_is_quoted(visit, realm, header):
    assert visit(f"__auth__ = {{}}\n{realm}def page(req):\n    return ''") == 401
    assert visit.req.err_headers_out["WWW-Authenticate"] == header
    assert visit(f"__auth__ = {{}}\ndef page(req):\n    {realm.strip() or 'pass'}\n    return ''") == 401
    assert visit.req.err_headers_out["WWW-Authenticate"] == header


def test_rules_read_what_the_page_binds_anew(visit):
    source = "USERS = {}\ndef page(req):\n    __auth__ = USERS\n    return 'secret'\n"
    assert visit(source + "USERS = {'spam': 'eggs'}\n", headers=SPAM) == 200
    assert visit(source + "USERS = {'spam': 'other'}\n", headers=SPAM) == 401


# -- credentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "", "Basic", "Basic ", "Basic  ", "Basic !!!!", "Basic c3BhbQ==", "Basic OmVnZ3M=", "Basic c3BhbTplZ2dz=",
        "Basic c3BhbTpl\tZ2dz", "Basic /////w==", "Bearer c3BhbTplZ2dz", "Digest username=\"spam\"", "c3BhbTplZ2dz",
        "Basic " + base64.b64encode(b"sp\0am:eggs").decode(), "Basic " + base64.b64encode(b"spam:eg\ngs").decode(),
        "Basicc3BhbTplZ2dz", "Basic c3BhbTplZ2dz c3BhbTplZ2dz", "Basic \xff",
    ],
)  # fmt: skip
def test_a_header_that_is_not_usable_is_a_401(visit, value):
    source = "__auth__ = {'spam': 'eggs', '': 'eggs'}\ndef page(req):\n    return 'secret'"
    assert visit(source, headers={"Authorization": value}) == 401


def test_a_header_that_is_not_even_text_is_a_401(visit, monkeypatch):
    class Undecodable(dict):
        def get(self, name, default=None):
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    made = Request.__init__

    def broken(self, **settings):
        made(self, **settings)
        self.headers_in = Undecodable()

    monkeypatch.setattr(Request, "__init__", broken)
    assert visit("__auth__ = {'spam': 'eggs'}\ndef page(req):\n    return 'secret'") == 401


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1), st.text(st.characters(exclude_categories=["C"])))
def test_any_credentials_arrive_as_they_were_sent(user, password):
    expected = Credentials(*f"{user}:{password}".split(":", 1))
    given = basic_credentials(Request(headers=basic(user, password)))
    assert given == (expected if expected.user else None)


@given(st.text())
def test_any_authorization_header_is_credentials_or_none(value):
    assert basic_credentials(Request(headers={"Authorization": value})) is None or ":" not in value


HASHES = {
    "plain": "eggs",
    "bytes": b"eggs",
    "pbkdf2": generate_password_hash("eggs", method="pbkdf2:sha256:1000"),
}


@pytest.mark.parametrize("kind", ["plain", "bytes", "pbkdf2"])
def test_passwords_are_checked_against_texts_and_hashes(kind):
    stored = {"spam": HASHES[kind]}
    assert password_matches(stored, Credentials("spam", "eggs"))
    assert not password_matches(stored, Credentials("spam", "Eggs"))
    assert not password_matches(stored, Credentials("other", "eggs"))


def test_a_hash_is_never_its_own_password():
    assert not password_matches({"spam": HASHES["pbkdf2"]}, Credentials("spam", HASHES["pbkdf2"]))
    for foreign in ("$6$salt$hash", "$argon2id$v=19$x", "$apr1$x$y", "{SHA}x", "$y$j9T$x"):
        with pytest.raises(Undecidable):
            password_matches({"spam": foreign}, Credentials("spam", foreign))


def test_an_empty_dictionary_knows_nobody():
    assert not password_matches({}, Credentials("spam", ""))


RULES = {"none": "pass", "auth": "__auth__ = {'boss': 'secret'}", "access": "__auth__ = {'boss': 'secret', 'spam': 'eggs'}; __access__ = ['boss']"}
KINDS = {
    "function": ("def {name}(self, req): return 'served'", ""),
    "handler": ("class {name}(Handler):\n    {rule}\n    def get(self, req): return 'served'\n    def post(self, req): return 'served'", ""),
}  # fmt: skip


@given(
    module=st.sampled_from(sorted(RULES)),
    levels=st.lists(st.sampled_from(sorted(RULES)), min_size=1, max_size=3),
    kind=st.sampled_from(sorted(KINDS)),
    last=st.sampled_from(sorted(RULES)),
    method=st.sampled_from(["GET", "POST"]),
)
def test_every_object_on_the_way_is_asked(module, levels, kind, last, method):
    """Instances inside instances, and at the end a method or a nested Handler: a model of two lines says who is let in."""
    source, name = KINDS[kind][0].format(name="page", rule=RULES[last]), "page"
    for depth, rule in enumerate(reversed(levels)):
        body = "\n".join("    " + line for line in source.splitlines())
        made = f"\n    {name} = {name.title()}()" if depth else ""
        source = f"class Level{depth}:\n    {RULES[rule]}\n{body}{made}"
        name = f"level{depth}"
    source = f"from handlers.base import Handler\n{RULES[module]}\n{source}\n{name} = {name.title()}()\n"
    asked = [module, *levels, *([last] if kind == "handler" else [])]
    path = "/".join([*(f"level{depth}" for depth in reversed(range(len(levels)))), "page"])
    page_of = make_page(source)
    for headers, may in (
        (None, set(asked) == {"none"}),
        (SPAM, set(asked) == {"none"}),
        (basic("boss", "secret"), True),
    ):
        req = Request(headers=headers, method=method)
        req.path_info = "/" + path
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publisher, "page_module", lambda req, filename: page_of)
            status = publisher.handler(req)
        served = (req.status if status == 0 else status) == 200
        assert served == may, (source, headers)


@pytest.mark.parametrize("phase", ["PythonAccessHandler", "PythonAuthenHandler", "PythonAuthzHandler"])
def test_a_gate_without_a_keeper_is_shut(phase):
    gate = make_page("from handlers.base import Handler\nclass Gate(Handler):\n    def acesshandler(self, req): return 403")
    req = Request()
    req.phase = phase
    with pytest.raises(AttributeError, match="is to decide who may pass"):
        gate.Gate.handler(req)

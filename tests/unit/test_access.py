"""Who may call a page: every way of saying so protects, and what cannot be decided is not served."""

# ruff: noqa: E501  # tables of page sources, one a line

from __future__ import annotations

import base64
import itertools

import pytest
from fake_request import Request, make_page
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.security import generate_password_hash

from handlers import publisher
from handlers.credentials import Credentials, basic_credentials, password_matches
from handlers.errors import Undecidable


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


# How a function can say who may call it: (name, indented body).
DEFINITIONS = {
    "function": "def __auth__(req, user, password):\n    return user == 'spam' and password == 'eggs'",
    "lambda": "__auth__ = lambda req, user, password: (user, password) == ('spam', 'eggs')",
    "dictionary": "__auth__ = {'spam': 'eggs'}",
    "global": "__auth__ = USERS",
    "annotated": "__auth__: dict = {'spam': 'eggs'}",
    "call": "__auth__ = rule('spam')",
    "decorated": "@same\ndef __auth__(req, user, password):\n    return (user, password) == ('spam', 'eggs')",
    "defaults": "def __auth__(req, user, password, users=USERS):\n    return users.get(user) == password",
}
# What may stand before it, which shifts every constant in the compiled code.
BEFORE = {
    "first": "",
    "docstring": '"""What it does."""',
    "local": "local = 17",
    "nested": "def helper(a, b=('x', 'y')):\n    return a",
    "import": "import os.path as path",
    "branch": "if req is None:\n    return 'nothing'",
}
SIGNATURES = ["req", "req, name='x'", "req, *, name='x'", "req, **fields", "req, /, name='x'", "req, *args"]
# What may stand between the function and its name in the module.
WRAPPERS = {
    "bare": "",
    "wraps": "@wraps",
    "naive": "@naive",
    "twice": "@naive\n@wraps",
    "cached": "@functools.lru_cache",
    "partial": "@functools.partial",
    "listed": "@wraps\n@functools.lru_cache",
}
PRELUDE = """
import functools

USERS = {'spam': 'eggs'}

def rule(name):
    return lambda req, user, password: user == name and password == 'eggs'

def same(function):
    return function

def wraps(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

def naive(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

class Memo:
    def __init__(self, function):
        self.function = function
    def __call__(self, req):
        return self.function(req)

REGISTRY = {}

def registered(function):
    REGISTRY['page'] = function
    def wrapper(req):
        return REGISTRY['page'](req)
    return wrapper

def boxed(function):
    box = [function]
    def wrapper(req):
        return box[0](req)
    return wrapper

def by_default(function):
    def wrapper(req, _function=function):
        return _function(req)
    return wrapper

def by_attribute(function):
    def wrapper(req):
        return wrapper.function(req)
    wrapper.function = function
    return wrapper
"""


def indent(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def page(definition: str, before: str = "", signature: str = "req", wrapper: str = "") -> str:
    decorators = wrapper + "\n" if wrapper else ""
    return f"{PRELUDE}\n{decorators}def page({signature}):\n{indent(before)}{indent(definition)}    return 'secret'\n"


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


@pytest.mark.parametrize("wrapper", ["Memo", "registered", "boxed", "by_default", "by_attribute"])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_wrapper_that_hides_the_function_is_not_served(visit, definition, wrapper):
    for headers in (None, SPAM):
        assert visit(page(DEFINITIONS[definition], wrapper="@" + wrapper), headers=headers) == 500
        assert visit.req.written == b""
        assert "is not served" in visit.req.logged[0]


@pytest.mark.parametrize("wrapper", ["Memo", "registered", "boxed", "by_default", "by_attribute"])
def test_an_alias_that_hides_the_function_is_not_served(visit, wrapper):
    source = page("__auth__ = USERS").replace("def page", "def _inner") + f"\nother = {wrapper}(_inner)\npage = other\n"
    assert visit(source, headers=SPAM) == 500
    assert visit.req.written == b""


@pytest.mark.parametrize(
    "definition",
    [
        "if req:\n    __auth__ = USERS",
        "__auth__ = USERS\n__auth__ = {}",
        "__auth__, other = USERS, 1",
        "users = dict(USERS)\n__auth__ = users",
        "users = dict(USERS)\ndef __auth__(req, user, password):\n    return user in users",
        "__auth__ = lambda *args: local\nlocal = True",
        "for __auth__ in [USERS]:\n    pass",
        "with open('x') as __auth__:\n    pass",
        "import os as __auth__",
        "class __auth__:\n    pass",
        "(__auth__ := USERS)",
        "try:\n    pass\nexcept ValueError as __auth__:\n    pass",
        "global __auth__\n__auth__ = USERS",
        "async def __auth__(req, user, password):\n    return False",
        "match req:\n    case __auth__:\n        pass",
        "__auth__ = USERS\n__auth__ |= {}",
        "__auth__ = 'spam'",
        "__auth__ = ['spam']",
        "__auth__ = {'spam': 5}",
        "__auth__ = {'spam': '$2b$12$0123456789012345678901234567890123456789012345678901'}",
        "def __auth__(req, user, password):\n    yield True",
        "async def _check(): pass\n__auth__ = lambda req, user, password: _check()",
    ],
)
def test_a_definition_that_cannot_be_decided_is_not_served(visit, definition):
    for headers in (None, SPAM):
        assert visit(page(definition), headers=headers) in (401, 500)
        assert visit.req.written == b""
    assert visit(page(definition), headers=SPAM) == 500


def test_a_rule_that_is_a_coroutine_function_is_not_served(visit):
    assert visit("async def __auth__(req, user, password):\n    return False\ndef page(req):\n    return 'secret'",
                 headers=SPAM) == 500  # fmt: skip
    assert visit.req.written == b""


PROTECTED_FROM_OUTSIDE = {
    "module": "__auth__ = USERS\ndef page(req):\n    return 'secret'",
    "attribute": "def page(req):\n    return 'secret'\npage.__auth__ = USERS",
    "attribute wrapped": "def page(req):\n    return 'secret'\npage.__auth__ = USERS\npage = naive(page)",
    "attribute of the wrapper": "@wraps\ndef page(req):\n    return 'secret'\npage.__auth__ = USERS",
    "class": "class Page:\n    __auth__ = USERS\n    def __call__(self, req):\n        return 'secret'\npage = Page()",
    "base class": "class Base:\n    __auth__ = USERS\nclass Page(Base):\n    def __call__(self, req):\n"
    "        return 'secret'\npage = Page()",
    "instance": "class Page:\n    def __call__(self, req):\n        return 'secret'\npage = Page()\npage.__auth__ = USERS",
    "method": "class Page:\n    def __auth__(self, req, user, password):\n        return (user, password) == ('spam', 'eggs')\n"
    "    def __call__(self, req):\n        return 'secret'\npage = Page()",
    "callable": "class Page:\n    def __call__(self, req):\n        x = 1\n        __auth__ = USERS\n        return 'secret'\n"
    "page = Page()",
    "callable rule": "class Rule:\n    def __call__(self, req, user, password):\n        return user == 'spam' and password "
    "== 'eggs'\n__auth__ = Rule()\ndef page(req):\n    return 'secret'",
    "factory": "def make():\n    def inner(req):\n        __auth__ = USERS\n        return 'secret'\n    return inner\n"
    "page = make()",
    "factory wrapped": "def make():\n    def inner(req):\n        __auth__ = USERS\n        return 'secret'\n"
    "    return naive(inner)\npage = make()",
    "class made for requests": "class page:\n    def __init__(self, req):\n        pass\n    __auth__ = USERS\n"
    "    def __call__(self, req):\n        return 'secret'",
    "its method decides": "class page:\n    def __init__(self, req):\n        pass\n    def __auth__(self, req, user, "
    "password):\n        return (user, password) == ('spam', 'eggs')\n    def __call__(self, req):\n        return 'secret'",
    "handler class": "from handlers.methods import Handler\nclass page(Handler):\n    __auth__ = USERS\n"
    "    def get(self, req):\n        return 'secret'",
    "handler method": "from handlers.methods import Handler\nclass page(Handler):\n    @wraps\n    def get(self, req):\n"
    "        __auth__ = USERS\n        return 'secret'",
}


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

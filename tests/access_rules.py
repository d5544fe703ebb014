"""Pages that say who may call them, in every way that occurs to an author: parts from which tests make tables."""

# ruff: noqa: E501  # page sources, one a line

from __future__ import annotations

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


# Wrappers that keep what they wrap where it cannot be followed.
HIDERS = ["Memo", "registered", "boxed", "by_default", "by_attribute"]

# What cannot be decided: conditional, dependent on the call, of a kind that answers nothing.
UNDECIDABLE = [
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
]

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
    "class made for requests": "from handlers.publisher import publish\n@publish\nclass page:\n    def __init__(self, req):\n        pass\n    __auth__ = USERS\n"
    "    def __call__(self, req):\n        return 'secret'",
    "its method decides": "from handlers.publisher import publish\n@publish\nclass page:\n    def __init__(self, req):\n        pass\n    def __auth__(self, req, user, "
    "password):\n        return (user, password) == ('spam', 'eggs')\n    def __call__(self, req):\n        return 'secret'",
    "handler class": "from handlers.pages.methods import Handler\nclass page(Handler):\n    __auth__ = USERS\n"
    "    def get(self, req):\n        return 'secret'",
    "handler method": "from handlers.pages.methods import Handler\nclass page(Handler):\n    @wraps\n    def get(self, req):\n"
    "        __auth__ = USERS\n        return 'secret'",
}

"""Form values to arguments: by signature, converted by annotation, and never the server's own two."""

# ruff: noqa: UP045  # Optional[X] is what pages say

from __future__ import annotations

import enum
import functools
import json
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional
from urllib.parse import parse_qsl, quote_plus, urlencode
from uuid import UUID

import pytest
from fake_request import Request
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import HttpError
from handlers.pages.arguments import make_plan
from handlers.pages.forms import Form, Limits, Upload, parse_query, read_form

if TYPE_CHECKING:
    from nowhere import Unknown


class Colour(enum.Enum):
    RED = "r"
    GREEN = 2


def bind(function, query="", conn="the connection", **fields):
    """Call *function* as the publisher does, with the values of *query* or *fields*."""
    pairs = parse_query(query) if query else [(k, v) for k, values in fields.items() for v in values]
    req = Request()
    args, kwargs = make_plan(function).bind(Form(pairs).grouped(), req, lambda req: conn)
    return function(*args, **kwargs)


def annotated(annotation, default=...):
    """A function with one parameter `x` of that annotation, which returns what it is given."""

    def required(req, x):
        return x

    def optional(req, x=default):
        return x

    function = required if default is ... else optional
    function.__annotations__ = {"x": annotation}
    return function


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "42", 42),
        (int, "-7", -7),
        (int, " 8 ", 8),
        (float, "1.5", 1.5),
        (float, "1e3", 1000.0),
        (bool, "on", True),
        (bool, "False", False),
        (bool, "", False),
        (Decimal, "1.10", Decimal("1.10")),
        (date, "2024-02-29", date(2024, 2, 29)),
        (datetime, "2024-02-29T12:30", datetime(2024, 2, 29, 12, 30)),
        (UUID, "12345678-1234-5678-1234-567812345678", UUID(int=0x12345678123456781234567812345678)),
        (Colour, "r", Colour.RED),
        (Colour, "GREEN", Colour.GREEN),
        (Colour, "2", Colour.GREEN),
        (Literal["a", "b"], "b", "b"),
        (str, "", ""),
        (bytes, "ü", "ü".encode()),
        (Annotated[int, "a page"], "3", 3),
        (Optional[int], "", None),
        (int | None, "5", 5),
        (Optional[str], "", ""),
        (int | str, "x", "x"),
        (list[int], "1", [1]),
        (list, "1", ["1"]),
        (set[str], "a", {"a"}),
        (tuple[int, ...], "1", (1,)),
        ("int", "42", 42),
        (Any, "42", "42"),
    ],
)
def test_a_value_is_converted_to_its_annotation(annotation, text, value):
    result = bind(annotated(annotation), x=[text])
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        *[(int, text) for text in ("", "x", "1.5", "1_000", "٣", "0x10", "9" * 5000, "1 2")],
        *[(float, text) for text in ("", "x", "nan", "inf", "1e999", "1_0")],
        *[(bool, text) for text in ("maybe", "2")],
        *[(Decimal, text) for text in ("", "x", "NaN", "Infinity", "sNaN")],
        *[(date, text) for text in ("", "2023-02-29", "yesterday")],
        *[(UUID, text) for text in ("", "1234")],
        *[(Colour, text) for text in ("", "blue", "3")],
        (Literal["a"], "b"),
        (Optional[int], "x"),
        (list[int], "x"),
        (Upload, "text"),
    ],
)
def test_a_value_that_does_not_fit_is_a_400_that_names_the_field(annotation, text):
    with pytest.raises(HttpError, match="'x'") as refusal:
        bind(annotated(annotation), x=[text])
    assert refusal.value.status == 400


def test_a_list_takes_every_value_of_the_field():
    assert bind(annotated(list[int]), x=["1", "2", "3"]) == [1, 2, 3]


def test_a_repeated_field_without_an_annotation_is_a_list():
    assert bind(lambda x: x, x=["a", "b"]) == ["a", "b"]


def test_a_repeated_field_for_one_value_is_refused():
    with pytest.raises(HttpError, match="'x'"):
        bind(annotated(int), x=["1", "2"])


def test_a_missing_required_field_is_a_400_that_names_it():
    with pytest.raises(HttpError, match="'x'") as refusal:
        bind(annotated(int))
    assert refusal.value.status == 400


def test_defaults_stand_where_nothing_was_sent():
    assert bind(annotated(int, 7)) == 7


def test_unknown_fields_are_left_out():
    assert bind(lambda req, a: a, "a=1&b=2") == "1"


def test_kwargs_take_what_no_parameter_names():
    def function(req, a, **rest):
        return a, rest

    assert bind(function, "a=1&b=2&c=3&c=4") == ("1", {"b": "2", "c": ["3", "4"]})


@pytest.mark.parametrize("query", ["req=1", "conn=1", "req=1&conn=2&a=3"])
def test_req_and_conn_never_come_from_the_client(query):
    def function(req, conn, a="", **rest):
        return type(req).__name__, conn, rest

    assert bind(function, query) == ("Request", "the connection", {})


def test_a_conn_that_has_a_default_keeps_it():
    assert bind(lambda req, conn=None: conn, "conn=1") is None


def test_keyword_only_and_positional_only_parameters_are_bound():
    def function(a, b="2", /, c="3", *, d, e="5"):
        return a, b, c, d, e

    assert bind(function, "a=A&d=D&e=E") == ("A", "2", "3", "D", "E")
    assert bind(function, "a=A&b=B&c=C&d=D") == ("A", "B", "C", "D", "5")


def test_positional_only_request_and_connection_are_passed():
    assert bind(lambda req, conn, a, /: (type(req).__name__, conn, a), "a=1") == ("Request", "the connection", "1")


def test_a_later_positional_only_value_is_passed_though_an_earlier_one_is_missing():
    assert bind(lambda a="1", b="2", /: (a, b), "b=B") == ("1", "B")


def test_var_positional_takes_nothing_from_a_form():
    assert bind(lambda req, *args, a="": (args, a), "args=1&a=2") == ((), "2")


def test_a_field_called_self_does_not_break_a_method():
    class Page:
        def method(self, req, **rest):
            return rest

    assert bind(Page().method, "self=1&a=2") == {"a": "2"}


def test_a_field_called_self_reaches_a_function():
    assert bind(lambda req, **rest: rest, "self=1") == {"self": "1"}


def test_the_signature_of_a_wrapped_function_counts():
    def decorated(function):
        @functools.wraps(function)
        def wrapper(request, *args, **kwargs):
            return function(request, *args, **kwargs)

        return wrapper

    @decorated
    def page(req, a: int):
        return a

    assert bind(page, "a=3&request=4") == 3


def test_an_annotation_that_cannot_be_evaluated_leaves_the_others_at_work():
    def function(req, a: int, b: Unknown):
        return a, b

    assert bind(function, "a=1&b=2") == (1, "2")


def test_no_connection_is_leased_when_a_field_does_not_fit():
    def function(req, conn, a: int):
        raise AssertionError("must not be called")

    def lease(req):
        raise AssertionError("must not be leased")

    with pytest.raises(HttpError):
        make_plan(function).bind({"a": ["x"]}, Request(), lease)


# -- what comes in -----------------------------------------------------------------------------------------------------


def form(body: bytes, content_type: str, **settings: str) -> list[tuple[str, Any]]:
    headers = {"Content-Type": content_type} if content_type else {}
    options = {f"handlers.{name}": value for name, value in settings.items()}
    return read_form(Request(method="POST", body=body, headers=headers, options=options)).list


def multipart(*parts: tuple[str, str, bytes]) -> bytes:
    """A body with boundary `b`: (disposition parameters, further headers, content) of each part."""
    body = b""
    for disposition, headers, content in parts:
        body += f"--b\r\nContent-Disposition: form-data; {disposition}\r\n{headers}\r\n".encode() + content + b"\r\n"
    return body + b"--b--\r\n"


URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
# A lone surrogate is not Unicode text: no client can encode it.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(TEXTS, TEXTS)))
def test_any_query_arrives_as_it_was_sent(pairs):
    assert read_form(Request(args=urlencode(pairs))).list == pairs


@given(st.text("ab=&;/?.", max_size=30))
def test_a_query_without_escapes_is_read_as_the_library_reads_it(query):
    assert parse_query(query) == parse_qsl(query, keep_blank_values=True)


@given(st.lists(st.tuples(TEXTS, TEXTS)))
def test_any_urlencoded_body_arrives_as_it_was_sent(pairs):
    assert form(urlencode(pairs).encode(), URLENCODED) == pairs


@given(st.dictionaries(TEXTS, TEXTS | st.integers() | st.none() | st.booleans() | st.lists(TEXTS, max_size=3)))
def test_any_json_object_arrives_as_it_was_sent(values):
    assert form(json.dumps(values).encode(), "application/json") == list(values.items())


@given(st.lists(st.tuples(TEXTS.filter(lambda name: not set(name) & set('\r\n"\\')), TEXTS)))
def test_any_multipart_text_arrives_as_it_was_sent(pairs):
    # Line breaks, quotes and backslashes in names are escaped by each browser in its own way.
    pairs = [(name.strip(), value) for name, value in pairs]
    parts = [(f'name="{name}"', "", value.encode()) for name, value in pairs if name.isprintable()]
    expected = [(name, value) for name, value in pairs if name.isprintable()]
    if parts:
        assert form(multipart(*parts), MULTIPART) == expected


def test_query_and_body_are_both_bound_the_query_first():
    req = Request(method="POST", args="a=1", body=b"a=2&b=3", headers={"Content-Type": URLENCODED})
    assert read_form(req).list == [("a", "1"), ("a", "2"), ("b", "3")]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_every_method_that_has_a_body_is_read(method):
    req = Request(method=method, body=b"a=1", headers={"Content-Type": URLENCODED})
    assert read_form(req).list == [("a", "1")]


def test_the_charset_of_a_body_is_honoured():
    body = ("n=" + quote_plus("grün".encode("latin-1"))).encode()
    assert form(body, f"{URLENCODED}; charset=iso-8859-1") == [("n", "grün")]
    part = ('name="n"', "Content-Type: text/plain; charset=iso-8859-1\r\n", "grün".encode("latin-1"))
    assert form(multipart(part), MULTIPART) == [("n", "grün")]


def test_a_file_is_an_upload_with_its_name_and_type():
    content = bytes(range(256)) * 10
    [(name, upload)] = form(
        multipart(('name="doc"; filename="grün.bin"', "Content-Type: image/png\r\n", content)), MULTIPART
    )
    assert (name, upload.filename, upload.type, upload.value) == ("doc", "grün.bin", "image/png", content)
    assert upload.file.read(3) == b"", "value reads to the end"
    upload.file.close()


def test_a_large_upload_goes_to_disk():
    part = ('name="doc"; filename="f"', "", b"x" * 5000)
    [(_, small)] = form(multipart(part), MULTIPART, spool_size="10000")
    [(_, large)] = form(multipart(part), MULTIPART, spool_size="1000")
    assert not small.file._rolled and large.file._rolled
    for upload in (small, large):
        upload.file.close()


def test_a_body_of_another_type_is_left_to_the_page():
    req = Request(method="POST", body=b"<a/>", headers={"Content-Type": "text/xml"})
    assert read_form(req).list == []
    assert req.read() == b"<a/>"


def test_json_that_is_no_object_is_left_to_the_page():
    req = Request(method="POST", body=b"[1, 2]", headers={"Content-Type": "application/json"})
    assert read_form(req).list == []
    assert req.json == [1, 2]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"a=%ff", URLENCODED, 400),
        (b"a=\xff", URLENCODED, 400),
        (b"a=1", f"{URLENCODED}; charset=nonsense", 415),
        (b"a=1", f"{URLENCODED}; charset=zip", 415),
        (b"{", "application/json", 400),
        (b'{"a": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe\xfd", "application/json", 400),
        (b"nothing", MULTIPART, 400),
        (b"--b\r\n\r\nno disposition\r\n--b--\r\n", MULTIPART, 400),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--b--\r\n", MULTIPART, 400),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\ncut of', MULTIPART, 400),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--b--\r\n', MULTIPART, 400),
        (b"--b\r\nx\r\n\r\n\r\n--b--\r\n", MULTIPART, 400),
        (b"a", "multipart/form-data", 400),
        (b"--b\r\n" + b"x" * 400_000, MULTIPART, 400),
    ],
)
def test_a_malformed_body_is_refused(body, content_type, status):
    with pytest.raises(HttpError) as refusal:
        form(body, content_type)
    assert refusal.value.status == status


@pytest.mark.parametrize(
    ("settings", "body", "content_type", "status"),
    [
        ({"max_body": "10"}, b"a=12345678", URLENCODED, None),
        ({"max_body": "10"}, b"a=123456789", URLENCODED, 413),
        ({"max_body": "10"}, b'{"a": "123456789"}', "application/json", 413),
        ({"max_fields": "2"}, b"a=1&b=2", URLENCODED, None),
        ({"max_fields": "2"}, b"a=1&b=2&c=3", URLENCODED, 400),
        ({"max_fields": "2"}, b'{"a":1,"b":2,"c":3}', "application/json", 400),
        ({"max_fields": "1"}, multipart(('name="a"', "", b"1"), ('name="b"', "", b"2")), MULTIPART, 400),
        ({"max_field_size": "4"}, b"a=1234", URLENCODED, None),
        ({"max_field_size": "4"}, b"a=12345", URLENCODED, 413),
        ({"max_field_size": "4"}, multipart(('name="a"', "", b"12345")), MULTIPART, 413),
        ({"max_field_size": "4"}, multipart(('name="a"; filename="f"', "", b"12345")), MULTIPART, None),
    ],
)
def test_limits_are_exact(settings, body, content_type, status):
    if status is None:
        values = Form(form(body, content_type, **settings))
        assert len(values)
        values.close()
    else:
        with pytest.raises(HttpError) as refusal:
            form(body, content_type, **settings)
        assert refusal.value.status == status


def test_a_body_that_ends_early_is_refused():
    req = Request(method="POST", body=b"a=1", headers={"Content-Type": URLENCODED, "Content-Length": "30"})
    with pytest.raises(HttpError) as refusal:
        read_form(req)
    assert refusal.value.status == 400


def test_a_body_in_a_coding_that_is_not_chunks_asks_for_a_length():
    with pytest.raises(HttpError) as refusal:
        read_form(Request(method="POST", headers={"Transfer-Encoding": "gzip, chunked"}))
    assert refusal.value.status == 411


def test_a_limit_that_is_no_number_names_the_option():
    with pytest.raises(ValueError, match=r"handlers\.max_body"):
        Limits.of(Request(options={"handlers.max_body": "a lot"}))


@given(st.binary(), st.sampled_from([URLENCODED, MULTIPART, "application/json", "multipart/mixed; boundary=b", ""]))
def test_random_bytes_are_values_or_a_refusal(body, content_type):
    try:
        form(body, content_type)
    except HttpError as refusal:
        assert 400 <= refusal.status < 500


PIECES = [
    b"--b",
    b"--",
    b"\r\n",
    b"\r",
    b"\n",
    b'name="a"',
    b"Content-Disposition: form-data; ",
    b'filename="f"',
    b"\xff",
]
PIECES += [b":", b";", b"x", b"Content-Type: text/plain; charset=u"]


@given(st.lists(st.sampled_from(PIECES)))
def test_bodies_that_are_nearly_multipart_are_values_or_a_refusal(pieces):
    try:
        form(b"".join(pieces), MULTIPART)
    except HttpError as refusal:
        assert 400 <= refusal.status < 500


def test_the_form_has_the_methods_of_field_storage():
    values = Form([("a", "1"), ("b", "2"), ("a", "3")])
    assert values["b"] == "2" and values["a"] == ["1", "3"]
    assert values.getfirst("a") == "1" and values.getfirst("z", "?") == "?"
    assert values.getlist("a") == ["1", "3"] and values.getlist("z") == []
    assert values.get("z") is None and values.has_key("a") and "z" not in values
    assert values.keys() == list(values) == ["a", "b"] and len(values) == 2
    assert values.items() == [("a", ["1", "3"]), ("b", "2")] and values.values() == [["1", "3"], "2"]
    with pytest.raises(KeyError):
        values["z"]

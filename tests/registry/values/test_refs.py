"""Names and references: parsed once, printed one way, and never anything that could be a path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import UsageError
from registry.values.refs import Name, Ref, is_path, parse_alias, parse_name, parse_ref

AB = Name("team", "sql")
HEX12 = "sha256:0123456789ab"
HEX64 = "sha256:" + "0123456789abcdef" * 4

FIRST = "abcdefghijklmnopqrstuvwxyz0123456789"
DEVICES = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}


def is_part(text):
    return ".." not in text and not text.endswith(".") and text.split(".")[0] not in DEVICES


PARTS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,95}", fullmatch=True).filter(is_part)
ALIASES = st.from_regex(r"[g-u][a-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda text: is_part(text) and text != "latest" and not text.startswith("sha256")
)
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{12,64}", fullmatch=True)
NAMES = st.builds(Name, PARTS, PARTS)
REFS = st.one_of(
    st.builds(Ref, NAMES),
    st.builds(Ref, NAMES, number=st.integers(1, 2**63 - 1), digest=st.none() | DIGESTS),
    st.builds(Ref, NAMES, alias=ALIASES, digest=st.none() | DIGESTS),
    st.builds(Ref, NAMES, latest=st.just(True), digest=st.none() | DIGESTS),
    st.builds(Ref, NAMES, digest=DIGESTS),
)


@given(REFS)
def test_what_is_printed_is_read_back(ref):
    assert parse_ref(str(ref)) == ref


@given(REFS)
def test_a_colon_reads_as_an_at(ref):
    assert parse_ref(str(ref).replace("@", ":")) == ref


@given(st.text(max_size=40))
def test_any_text_is_a_reference_that_reads_back_or_a_usage_error(text):
    try:
        ref = parse_ref(text)
    except UsageError:
        return
    again = parse_ref(str(ref))

    assert (again.name, again.number, again.alias, again.digest) == (ref.name, ref.number, ref.alias, ref.digest)
    assert "/" not in ref.name.name
    assert ".." not in str(ref)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("team/sql", Ref(AB)),
        ("sql", Ref(Name("local", "sql"))),
        ("team/sql@3", Ref(AB, number=3)),
        ("team/sql@v3", Ref(AB, number=3)),
        ("team/sql:3", Ref(AB, number=3)),
        ("team/sql@007", Ref(AB, number=7)),
        ("team/sql@9223372036854775807", Ref(AB, number=9223372036854775807)),
        ("team/sql@latest", Ref(AB, latest=True)),
        ("team/sql@prod", Ref(AB, alias="prod")),
        ("team/sql:prod", Ref(AB, alias="prod")),
        (f"team/sql@{HEX12}", Ref(AB, digest=HEX12)),
        (f"team/sql:{HEX64}", Ref(AB, digest=HEX64)),
        (f"team/sql@prod@{HEX12}", Ref(AB, alias="prod", digest=HEX12)),
        (f"team/sql:prod:{HEX12}", Ref(AB, alias="prod", digest=HEX12)),
        (f"team/sql@3@{HEX12}", Ref(AB, number=3, digest=HEX12)),
        (f"team/sql@latest@{HEX12}", Ref(AB, latest=True, digest=HEX12)),
        ("Team/SQL@Prod", Ref(AB, alias="prod")),
        ("team/sql@LATEST", Ref(AB, latest=True)),
        ("team/sql@V3", Ref(AB, number=3)),
        (f"team/sql@{HEX12.upper()}", Ref(AB, digest=HEX12)),
        (f"team/sql:{HEX12.upper()}", Ref(AB, digest=HEX12)),
        (f"team/sql:{HEX12.title()}", Ref(AB, digest=HEX12)),
        ("team/mysha256:3", Ref(Name("team", "mysha256"), number=3)),
        ("team/sha256:3", Ref(Name("team", "sha256"), number=3)),
        ("a/b", Ref(Name("a", "b"))),
        ("x" * 96 + "/" + "y" * 96, Ref(Name("x" * 96, "y" * 96))),
        ("icon/sql-1.5_b", Ref(Name("icon", "sql-1.5_b"))),
    ],
)
def test_references_of_every_kind(text, expected):
    assert parse_ref(text) == expected


def test_a_bare_name_takes_the_namespace_given():
    assert parse_ref("sql@3", namespace="team") == Ref(AB, number=3)


def test_a_namespace_given_is_checked_too():
    with pytest.raises(UsageError, match="namespace"):
        parse_name("sql", namespace="../x")


PAYLOADS = [
    *["../x", "..\\x", "/etc/passwd", "C:\\x", "D:x\\y", "\\\\h\\s", "a/../../b", "./a", "a//b", "a/./b", "a/b/c"],
    *["%2e%2e%2f", "%252e%252e%252f", "..;/", "..%00/", "a\0b", "\u2025/", "\uff0e\uff0e/", "~root", "$HOME"],
    *["-rf", "--help", "CON", "nul.txt", "aux.", "name.", "name ", " name", "\u202egnp", "e\u0301", "\u00e9"],
    *["a" * 97, "a" * 256, "a/" * 2048, ".git", ".lock", "a..b", "team/..", "team/.", "/", "", "team/", "/sql"],
    *["\U0001f600", "\u05d0\u05d1", "\ufb01ne", "\u0130stanbul", "\u212aelvin", "sql\n", "sql\t", "a b", "sq*l"],
    *["lpt1", "com0.tar", "Aux/sql", "team/NUL", "sha256:" + "1" * 12, HEX64, HEX64.upper()],
]


@pytest.mark.parametrize("number", ["0", "9223372036854775808", "9" * 20, "v" + "9" * 400])
def test_a_number_that_no_version_can_have_is_told_the_range(number):
    with pytest.raises(UsageError, match=r"expected a version number from 1 to 9223372036854775807$"):
        parse_ref(f"team/sql@{number}")


@pytest.mark.parametrize("text", PAYLOADS)
def test_what_could_be_a_path_an_option_or_another_name_is_no_name(text):
    with pytest.raises(UsageError):
        parse_ref(text)


SELECTORS = [
    *["0", "v0", "000", "9223372036854775808", "9" * 5000, "-1", "+1", "1.0.", "\u0663", "v\uff13", "3 ", ""],
    *[
        "sha256:",
        "sha256:../..",
        "sha256:" + "a" * 11,
        "sha256:" + "a" * 65,
        "sha256:" + "g" * 12,
        "sha512:" + "a" * 64,
    ],
    *[
        "md5:" + "a" * 32,
        "sha256",
        "sha256-" + "a" * 12,
        "sha256sum",
        "a" * 12,
        "0123456789abcdef",
        "../x",
        "a/b",
        "-rf",
    ],
    *[
        "prod@staging",
        "3@4",
        "3@prod",
        "prod@3",
        f"{HEX12}@{HEX12}",
        f"{HEX12}@prod",
        f"prod@{HEX12}@{HEX12}",
        "prod@",
        "@",
    ],
    *["\u017fha256:" + "a" * 12, "pr\u00f6d", "a" * 97, "con", "prod\n", "prod\0"],
]


@pytest.mark.parametrize("text", SELECTORS)
def test_what_is_no_version_is_refused(text):
    with pytest.raises(UsageError):
        parse_ref(f"team/sql@{text}")


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "v3",
        "V3",
        "007",
        "latest",
        "Latest",
        "sha256",
        "sha256x",
        "a" * 12,
        "ABCDEFABCDEF",
        "",
        "..",
        "a/b",
        "a@b",
        "a:b",
    ],
)
def test_an_alias_cannot_be_taken_for_a_version(text):
    with pytest.raises(UsageError):
        parse_alias(text)


@pytest.mark.parametrize(
    ("text", "alias"),
    [("prod", "prod"), ("Prod", "prod"), ("v3-rc1", "v3-rc1"), ("a" * 11, "a" * 11), ("2026.1", "2026.1")],
)
def test_an_alias_is_folded(text, alias):
    assert parse_alias(text) == alias


def test_a_message_is_one_line_however_long_or_wild_the_name():
    with pytest.raises(UsageError) as caught:
        parse_name("\x1b[31m\n" * 1000)

    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/x", True),
        ("./x", True),
        ("../x", True),
        ("~/x", True),
        ("~root/x", True),
        (".", True),
        ("..", True),
        ("~", True),
        ("x", False),
        ("x/y", False),
        (".x", False),
        ("x/../y", False),
        ("", False),
    ],
)
def test_a_path_starts_like_one(text, path):
    assert is_path(text) is path


@pytest.mark.parametrize("path", ["./out/sql", "/srv/sql", "~/sql", "../sql@3", "."])
@pytest.mark.parametrize("parse", [parse_ref, parse_name])
def test_a_path_where_a_reference_is_needed_says_what_reads_paths(parse, path):
    with pytest.raises(UsageError, match="is a path; expected the name of an adapter or a reference") as refusal:
        parse(path)

    assert "adapters check PATH" in refusal.value.hint

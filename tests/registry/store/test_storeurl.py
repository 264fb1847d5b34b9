"""A store's URL names a place and never carries a secret."""

import pytest

from registry.errors import UsageError
from registry.store.storeurl import StoreUrl, parse_store_url

CANARY = "CANARY-hunter2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket", StoreUrl("s3", "bucket")),
        ("s3://bucket/", StoreUrl("s3", "bucket")),
        ("s3://bucket/a/b/", StoreUrl("s3", "bucket", "a/b")),
        (
            "s3://bucket/a?endpoint=http://127.0.0.1:9000/&region=eu-central-1",
            StoreUrl("s3", "bucket", "a", "http://127.0.0.1:9000", "eu-central-1"),
        ),
        ("gs://bucket/team", StoreUrl("gs", "bucket", "team")),
        ("az://container/team?account=ours", StoreUrl("az", "container", "team", account="ours")),
    ],
)
def test_a_url_is_bucket_prefix_and_where_to_ask(text, expected):
    assert parse_store_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        f"s3://user:{CANARY}@bucket/a",
        f"s3://{CANARY}@bucket",
        f"s3://bucket?secret_access_key={CANARY}",
        f"s3://bucket?{CANARY}",
        f"s3://bucket?{CANARY}=1&region=x",
        f"s3://bucket?endpoint=https://user:{CANARY}@host",
        f"s3://bucket?endpoint=https://host/?key={CANARY}",
        f"s3://bucket?endpoint={CANARY}",
        f"s3://bucket?region=a/{CANARY}",
        f"s3://bucket#{CANARY}",
        f"s3://bucket/a%20{CANARY}!",
        f"az://container?sas_token={CANARY}",
        f"gs://bucket?token={CANARY}",
        f"s3://[{CANARY}",
    ],
)
def test_a_secret_is_refused_and_not_repeated(text):
    with pytest.raises(UsageError) as caught:
        parse_store_url(text)

    assert CANARY not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__cause__ is None


def test_a_refused_secret_says_where_credentials_come_from():
    with pytest.raises(UsageError, match="credentials never stand in it") as caught:
        parse_store_url("s3://key:secret@bucket")

    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["ftp://bucket", "bucket", "", "s3://", "s3:///a", "s3://b", "s3://bucket/../other", "s3://bucket/a b"]
)
def test_what_is_no_place_is_refused(text):
    with pytest.raises(UsageError):
        parse_store_url(text)


def test_the_label_holds_no_more_than_the_place():
    url = parse_store_url("s3://bucket/a?endpoint=http://127.0.0.1:9000&region=eu")

    assert url.label == "s3://bucket/a at http://127.0.0.1:9000"

"""Uploads in parts that nobody finishes are found and given up; credentials come from the whole chain."""

import re
from datetime import UTC, datetime, timedelta
from urllib.request import Request, urlopen

import pytest

from registry.errors import UnavailableError
from registry.settings import has_environment_keys
from registry.store.bucket import bucket as buckets
from registry.store.bucket import multiparts
from registry.store.bucket.bucket import Bucket
from registry.store.bucket.multiparts import abort_unfinished, unfinished
from registry.store.bucket.objects import ObjectStore
from registry.store.storeurl import parse_store_url
from tests.buckets import store_url
from tests.faultproxy import proxying

KEY = "team/registry/sha256/2c/" + "2c" * 32


@pytest.fixture
def url(s3_url):
    return parse_store_url(s3_url)


@pytest.fixture
def begin(s3_server, url):
    """Begins an upload in parts and leaves it, as a killed push does."""

    def begin(key):
        with urlopen(Request(f"{s3_server}/{url.bucket}/{key}?uploads=", method="POST")) as answer:
            assert b"<UploadId>" in answer.read()

    return begin


@pytest.mark.parametrize(("hours", "expected"), [(0, []), (23, []), (25, [KEY])])
def test_an_upload_that_may_still_run_is_left_alone(s3_url, s3_server, begin, hours, expected):
    """moto says 2010 of each: the proxy puts the time in its place."""
    begin(KEY)
    begun = (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()
    with proxying(s3_server) as proxy:
        proxy.plan = lambda request: "spoiled"
        proxy.spoil = lambda body: re.sub(rb"<Initiated>[^<]*", b"<Initiated>" + begun, body)

        assert [one.key for one in unfinished(parse_store_url(s3_url.replace(s3_server, proxy.address)))] == expected


def test_what_was_begun_more_than_a_day_ago_is_given_up(url, begin):
    begin(KEY)

    assert [one.key for one in unfinished(url)] == [KEY]
    assert abort_unfinished(url) == 1
    assert unfinished(url) == []


def test_uploads_beside_the_prefix_are_not_ours(url, begin):
    begin("team/other/sha256/2c/x")

    assert unfinished(url) == []


def test_a_collection_begins_with_giving_them_up(url, begin, tmp_path):
    begin(KEY)

    assert ObjectStore(Bucket(url), tmp_path / "staging").clear_stale() == 1


def test_a_store_that_cannot_list_them_is_told_by_its_error_code_alone(s3_url, s3_server, tmp_path):
    missing = parse_store_url(store_url(s3_server, "no-such-bucket"))

    with pytest.raises(UnavailableError, match="unfinished uploads: the store answered NoSuchBucket") as caught:
        unfinished(missing)
    assert "AbortIncompleteMultipartUpload" in caught.value.hint
    assert ObjectStore(Bucket(missing), tmp_path / "staging").clear_stale() == 0


def test_doctor_counts_them(url, begin, tmp_path):
    begin(KEY)

    checks = ObjectStore(Bucket(url), tmp_path / "staging").checks()

    assert [check.detail for check in checks if check.name == "store uploads"] == [
        "1 unfinished for more than a day; gc gives them up"
    ]


def test_other_clouds_are_not_asked():
    assert unfinished(parse_store_url("gs://bucket")) == []


def test_credentials_come_from_a_profile_too(url, monkeypatch, tmp_path):
    """What obstore alone does not read."""
    (tmp_path / "credentials").write_text("[team]\naws_access_key_id = from-profile\naws_secret_access_key = x\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "team")

    assert multiparts.credentials()()["access_key_id"] == "from-profile"
    assert ObjectStore(Bucket(url), tmp_path / "staging").put_bytes(b"hello").startswith("sha256:2cf24dba")


def test_no_credentials_anywhere_is_said(url, monkeypatch, tmp_path):
    monkeypatch.setattr(buckets, "TRIES", 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(UnavailableError) as caught:
        ObjectStore(Bucket(url), tmp_path / "staging").put_bytes(b"hello")
    assert "no credentials were found" in str(caught.value)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, False),
        ({"AWS_ACCESS_KEY_ID": "a"}, False),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, True),
    ],
)
def test_both_keys_in_the_environment_are_enough(env, expected):
    assert has_environment_keys(env) is expected

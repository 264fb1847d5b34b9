"""adapters.provenance.json: what may stand in it, and what is refused with its name."""

import json
import os

import pytest

from registry.errors import UsageError
from registry.origins.provenance import Claim
from registry.origins.sidecar import SIDECAR, Sidecar, read_sidecar

COMMIT = "8c0f1d2e" * 5


@pytest.fixture
def sidecar(tmp_path):
    def read(content):
        text = content if isinstance(content, (bytes, str)) else json.dumps(content)
        (tmp_path / SIDECAR).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_sidecar(tmp_path)

    return read


def test_a_folder_without_one_says_nothing(tmp_path):
    assert read_sidecar(tmp_path) == Sidecar({}, {})


def test_every_key_is_taken_with_the_files_name(sidecar):
    found = sidecar(
        {
            "git_commit": COMMIT.upper(),
            "run_id": "r-1",
            "data_digest": "sha256:ab",
            "licence": "MIT",
            "metrics": {"loss": 1, "acc": 0.5},
        }
    )

    assert found.claims == {
        "git_commit": Claim(COMMIT, SIDECAR),
        "run_id": Claim("r-1", SIDECAR),
        "data_digest": Claim("sha256:ab", SIDECAR),
        "licence": Claim("mit", SIDECAR),
    }
    assert found.metrics == {"loss": 1.0, "acc": 0.5}


@pytest.mark.parametrize(
    "content", [{}, {"run_id": None}, {"metrics": None}, {"metrics": {}, "licence": None}], ids=str
)
def test_what_is_null_or_absent_is_not_said(sidecar, content):
    assert sidecar(content) == Sidecar({}, {})


def test_sixty_four_kibibytes_are_read_and_not_one_byte_more(sidecar):
    content = b'{"run_id": "r"}'

    assert sidecar(content.ljust(65_536)).claims["run_id"].value == "r"
    with pytest.raises(UsageError, match=f"{SIDECAR}: more than 65536 bytes"):
        sidecar(content.ljust(65_537))


@pytest.mark.parametrize("field", ["git_commit", "run_id", "data_digest", "licence"])
@pytest.mark.parametrize("value", [7, 1.5, True, ["x"], {"a": "b"}], ids=str)
def test_a_claim_is_a_text(sidecar, field, value):
    with pytest.raises(UsageError, match=rf"{SIDECAR}: {field} must be a text, found "):
        sidecar({field: value})


@pytest.mark.parametrize("field", ["git_commit", "run_id", "data_digest", "licence"])
@pytest.mark.parametrize("value", ["\x1b[31mred", "a\x00b", "a\nb", "a\u202eb", "a\u200bb", "", "x" * 257], ids=repr)
def test_a_claim_has_no_control_characters_and_is_neither_empty_nor_long(sidecar, field, value):
    with pytest.raises(UsageError, match=SIDECAR) as caught:
        sidecar({field: value})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["1", True, None, [1], {"a": 1}], ids=str)
def test_a_metric_is_a_number(sidecar, value):
    with pytest.raises(UsageError, match="metric loss: expected a finite number, found "):
        sidecar({"metrics": {"loss": value}})


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400])
def test_a_metric_is_finite_as_a_double_holds_it(sidecar, text):
    with pytest.raises(UsageError, match="metric loss: expected a finite number"):
        sidecar(f'{{"metrics": {{"loss": {text}}}}}')


def test_a_number_of_too_many_digits_is_not_read(sidecar):
    with pytest.raises(UsageError, match="not readable as JSON"):
        sidecar('{"metrics": {"loss": ' + "1" * 5000 + "}}")


@pytest.mark.parametrize("metrics", ["x", 3, [1], True], ids=str)
def test_metrics_are_an_object(sidecar, metrics):
    with pytest.raises(UsageError, match="metrics must be an object of numbers"):
        sidecar({"metrics": metrics})


@pytest.mark.parametrize("name", ["", "a b", "a\x1b", "x" * 97])
def test_a_metrics_name_is_one_that_list_can_ask_for(sidecar, name):
    with pytest.raises(UsageError, match="metric "):
        sidecar({"metrics": {name: 1}})


def test_an_unknown_key_is_refused_and_the_first_is_named(sidecar):
    with pytest.raises(UsageError, match="unknown key 'license'; known: git_commit, run_id, data_digest, licence, met"):
        sidecar({"run_id": "r", "license": "mit", "pushed_by": "eve"})


def test_nobody_else_says_who_pushed(sidecar):
    """A file that came with a folder cannot speak for the pusher."""
    with pytest.raises(UsageError, match="unknown key 'pushed_by'"):
        sidecar({"pushed_by": "eve"})


class TestPlace:
    def test_a_link_is_not_followed_wherever_it_leads(self, tmp_path):
        (tmp_path / "real.json").write_text("{}")
        (tmp_path / SIDECAR).symlink_to(tmp_path / "real.json")

        with pytest.raises(UsageError, match="cannot be read"):
            read_sidecar(tmp_path)

    def test_a_link_to_nothing_is_not_an_absent_file(self, tmp_path):
        (tmp_path / SIDECAR).symlink_to("nowhere")

        with pytest.raises(UsageError, match="cannot be read"):
            read_sidecar(tmp_path)

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / SIDECAR)

        with pytest.raises(UsageError, match="is not a regular file"):
            read_sidecar(tmp_path)

    def test_a_folder_of_that_name_is_refused(self, tmp_path):
        (tmp_path / SIDECAR).mkdir()

        with pytest.raises(UsageError, match="is not a regular file"):
            read_sidecar(tmp_path)

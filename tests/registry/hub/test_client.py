"""Our bounds around the library: there while we use it, gone afterwards."""

import gzip
import logging
from pathlib import Path

import pytest

from registry.errors import ConflictError, NotFoundError, TransientError, UnavailableError
from registry.hub import client
from registry.hub.client import asked, connected
from registry.hub.faults import asked_to_wait, asking, translated
from tests.factories import make_settings


def counted(*answers):
    """A call that raises or returns one answer after the other, and the list of what it was asked."""
    calls, left = [], list(answers)

    def call():
        calls.append(1)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call, calls


class TestAsked:
    def test_a_passing_failure_is_asked_again(self):
        call, calls = counted(TransientError("a", wait=0), TransientError("b", wait=0), "done")

        assert asked("x", call) == "done"
        assert len(calls) == 3

    def test_it_ends_after_four_tries(self):
        call, calls = counted(*[TransientError(str(number), wait=0) for number in range(9)])

        with pytest.raises(TransientError, match="3"):
            asked("x", call)
        assert len(calls) == 4

    @pytest.mark.parametrize("error", [NotFoundError("no"), ConflictError("no"), UnavailableError("no")])
    def test_what_cannot_pass_is_asked_once(self, error):
        call, calls = counted(error)

        with pytest.raises(type(error)):
            asked("x", call)
        assert len(calls) == 1


class TestWaits:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "7"}, 7),
            ({"Retry-After": " 0 "}, 0),
            ({"Retry-After": "-1"}, None),
            ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
            ({"Retry-After": "9" * 400}, 999_999_999),
            ({"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"fixed window";"api";q=500;w=300'}, 55),
            ({"ratelimit": '"api";r=3;t=55', "ratelimit-policy": '"fixed window";"api";q=500;w=300'}, None),
            ({}, None),
        ],
    )
    def test_what_a_server_asks_for(self, headers, seconds):
        assert asked_to_wait(headers) == seconds


class TestTranslated:
    def test_a_wrapped_error_of_ours_stays(self):
        ours = NotFoundError("x")
        wrapped = RuntimeError("upload failed")
        wrapped.__cause__ = ours

        assert translated(wrapped, "y") is ours

    @pytest.mark.parametrize("error", [ValueError("no JSON"), KeyError("sha"), RuntimeError("?"), TypeError("None")])
    def test_what_the_library_stumbles_over_is_the_answers_fault(self, error):
        found = translated(error, "hf://o/n")

        assert type(found) is UnavailableError
        assert str(found).startswith("hf://o/n: the Hub's answer ")

    def test_a_full_disk_is_named(self):
        assert "/cache/x: No space left" in str(translated(OSError(28, "No space left on device", "/cache/x"), "y"))

    def test_addresses_are_left_out(self):
        found = translated(ValueError("at https://u:p@cdn.example/x?signature=1 failed"), "y")

        assert str(found) == "y: the Hub's answer cannot be read: ValueError: at … failed"

    def test_an_interrupt_is_not_an_answer(self):
        with pytest.raises(KeyboardInterrupt), asking("x"):
            raise KeyboardInterrupt


class TestConnected:
    def test_the_librarys_session_and_voice_are_as_before(self, tmp_path):
        from huggingface_hub.utils import are_progress_bars_disabled, close_session, get_session

        before = {name: list(hooks) for name, hooks in get_session().event_hooks.items()}
        level, barred = logging.getLogger("huggingface_hub").level, are_progress_bars_disabled()

        with connected(make_settings(tmp_path)):
            inside = {name: len(hooks) for name, hooks in get_session().event_hooks.items()}
            assert are_progress_bars_disabled()

        assert inside == {name: len(hooks) + 1 for name, hooks in before.items()}
        assert get_session().event_hooks == before
        assert (logging.getLogger("huggingface_hub").level, are_progress_bars_disabled()) == (level, barred)
        close_session()

    def test_the_endpoint_is_the_settings(self, tmp_path):
        with connected(make_settings(tmp_path, hub_endpoint="http://127.0.0.1:1")) as api:
            assert api.endpoint == "http://127.0.0.1:1"

    def test_a_server_without_an_end_of_answers_is_left(self, hub, monkeypatch, tmp_path):
        monkeypatch.setattr(client, "_MOST_ANSWERS", 5)
        more = f'<{hub.url}/api/models?author=x>; rel="next"'
        hub.fault("GET /api/models", lambda handler: handler.say([], {"Link": more}), times=99)

        with (
            connected(make_settings(tmp_path, hub_endpoint=hub.url)) as api,
            pytest.raises(UnavailableError, match="no end"),
            asking("x"),
        ):
            list(api.list_models(author="x"))
        assert hub.asked("GET") == 6


class TestLongAnswers:
    """One JSON answer is read into memory whole, so it has an end whatever the server says."""

    @pytest.fixture
    def small(self, monkeypatch):
        monkeypatch.setattr(client, "_LONGEST_ANSWER", 1 << 20)

    @staticmethod
    def listed(hub, tmp_path):
        with connected(make_settings(tmp_path, hub_endpoint=hub.url)) as api, asking("hf://x/*"):
            return list(api.list_models(author="x", full=True))

    def test_a_page_without_end_is_left(self, hub, small, tmp_path):
        sent = []

        def pour(handler):
            handler.answer(200, b"[", {"Content-Type": "application/json", "Content-Length": str(1 << 40)})
            handler.close_connection = True
            sent.extend(handler.wfile.write(b" " * (1 << 16)) for _ in range(1 << 10))

        hub.fault("GET /api/models", pour)

        with pytest.raises(UnavailableError, match="the Hub's answer is longer than 1 MiB"):
            self.listed(hub, tmp_path)
        assert sum(sent) < 1 << 26

    def test_what_counts_is_its_length_unpacked(self, hub, small, tmp_path):
        packed = gzip.compress(b"[" + b" " * (8 << 20) + b"]")
        assert len(packed) < 1 << 16
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        hub.fault("GET /api/models", lambda handler: handler.answer(200, packed, headers))

        with pytest.raises(UnavailableError, match="longer than 1 MiB"):
            self.listed(hub, tmp_path)

    def test_a_refusal_of_any_length_is_bounded_too(self, hub, small, tmp_path):
        hub.fault("GET /api/models", lambda handler: handler.answer(400, b" " * (2 << 20)), times=9)

        with pytest.raises(UnavailableError, match="longer than 1 MiB"):
            self.listed(hub, tmp_path)

    def test_a_file_may_be_longer(self, hub, small, tmp_path):
        hub.add("team/big", {"adapter_model.safetensors": bytes(3 << 20)})

        with connected(make_settings(tmp_path, hub_endpoint=hub.url)) as api:
            got = api.hf_hub_download("team/big", "adapter_model.safetensors")

        assert Path(got).stat().st_size == 3 << 20

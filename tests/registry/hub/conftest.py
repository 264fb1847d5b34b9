"""Fixtures of the tests that talk to a local Hub: no request of theirs leaves this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import bare, shell, work  # noqa: F401 (fixtures)
from tests.registries import make_adapter
from tests.registry.hub.server import TOKEN, Hub, hub_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub with no repos, which HF_ENDPOINT names; an empty cache of the library; a token of the user `team`."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        close_session()


@pytest.fixture
def adapter(tmp_path: Path) -> dict[str, bytes]:
    """The files of a small adapter, as a repo holds them."""
    folder = make_adapter(tmp_path / "adapter", 7)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, "README.md": b"---\nlicense: mit\n---\n# SQL\n", ".gitattributes": b"* text\n"}

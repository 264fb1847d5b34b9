from __future__ import annotations

import pytest

from tests.registry.cli.stub import Adapters


@pytest.fixture
def adapters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Adapters:
    """The command line over a stub, far from the settings of whoever runs the tests."""
    for variable in ("ADAPTERS_FORMAT", "ADAPTERS_HOME", "ADAPTERS_DATABASE_URL", "ADAPTERS_STORE_URL", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    return Adapters(capsys)

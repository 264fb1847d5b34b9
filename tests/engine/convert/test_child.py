"""How the locked-in process reads: by the file it was given, and nothing that torch would make of the descriptor."""

from __future__ import annotations

import os
import tarfile

import pytest
import torch

from engine.convert.child import _Source


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_reads_either_layout_from_the_source_and_tries_no_tar_archive(tmp_path, monkeypatch, zipped):
    """torch tries the oldest layout, a tar archive, on every older file whose descriptor it is told."""
    path = tmp_path / "weights.bin"
    torch.save({"a": torch.arange(6.0).reshape(2, 3)}, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("torch tried a tar archive"))

    with _Source(os.open(path, os.O_RDONLY)) as source:
        loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=False)

    assert loaded["a"].tolist() == [[0, 1, 2], [3, 4, 5]]

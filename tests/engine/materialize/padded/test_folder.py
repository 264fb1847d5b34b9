"""The plain folder: the version's files as they are, or beside the padded ones; there whole or not at all."""

import shutil
import signal
import subprocess
import sys

import pytest

from engine.errors import DestinationError, NoSpaceError, RefusedError, UnreadableError
from engine.materialize.padded import write_padded
from tests.engine.model.live import llama, lora_folder


@pytest.fixture
def adapter(tmp_path):
    """An adapter with a card and a tokenizer, and with what training left in its folder."""
    folder = lora_folder(tmp_path / "adapter", llama(num_hidden_layers=1), use_dora=True)
    (folder / "README.md").write_text("its card")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool.jinja").write_text("{{ x }}")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5/README.md").write_text("another")
    (folder / "tokenizer_config.json").symlink_to("/etc/hostname")
    return folder


TAKEN = {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json", "additional_chat_templates/tool.jinja"}  # fmt: skip


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_without_rank_and_set_every_file_of_the_version_is_copied_byte_by_byte(adapter, tmp_path):
    """DoRA too: nothing is asked of it."""
    done = write_padded(adapter, tmp_path / "out")

    assert files(tmp_path / "out") == TAKEN
    assert all((tmp_path / "out" / name).read_bytes() == (adapter / name).read_bytes() for name in TAKEN)
    assert (done.path, done.rank, done.modules, done.zeros) == (tmp_path / "out", 4, 3, 0)


def test_the_card_and_the_tokenizer_travel_with_the_padded_factors(tmp_path):
    folder = lora_folder(tmp_path / "plain", llama(num_hidden_layers=1))
    (folder / "README.md").write_text("its card")

    write_padded(folder, tmp_path / "out", rank=8)

    assert files(tmp_path / "out") == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert (tmp_path / "out/README.md").read_text() == "its card"


def test_a_refusal_leaves_nothing(adapter, tmp_path):
    with pytest.raises(RefusedError, match="DoRA"):
        write_padded(adapter, tmp_path / "out", rank=8)

    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_is_there_is_kept_and_what_is_none_is_told(adapter, tmp_path):
    (tmp_path / "out").mkdir()

    with pytest.raises(DestinationError, match="exists; give a name that is free"):
        write_padded(adapter, tmp_path / "out")
    with pytest.raises(UnreadableError, match=r"holds no adapter_config\.json"):
        write_padded(tmp_path / "out", tmp_path / "new")
    with pytest.raises(UnreadableError, match="not a folder"):
        write_padded(adapter, tmp_path / "new", over=[tmp_path / "nothing"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out"]


def test_room_for_the_padded_factors_is_asked_for_first(tmp_path, monkeypatch):
    """A and B of q, v and down at rank 1,000,000: 1e6 * 4 * (32 + 32 + 32 + 16 + 48 + 32) bytes."""
    folder = lora_folder(tmp_path / "plain", llama(num_hidden_layers=1))
    usage = shutil.disk_usage(tmp_path)._replace(free=768_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    with pytest.raises(NoSpaceError, match=r"needs 768[0-9]{6} bytes, 768000000 are free"):
        write_padded(folder, tmp_path / "out", rank=1_000_000)

    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.format.files.writer import TensorWriter
calls, when, put = [], int(sys.argv[1]), TensorWriter.put_blocks
def dies(self, name, blocks):
    calls.append(name)
    if len(calls) == when:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, name, blocks)
TensorWriter.put_blocks = dies
from engine.materialize.padded import write_padded
write_padded(Path(sys.argv[2]), Path(sys.argv[3]), rank=8)
"""


@pytest.mark.parametrize("when", [4, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 2, 3, 5, 6))])
def test_a_kill_at_a_tensor_leaves_nothing_at_the_place(when, tmp_path):
    folder = lora_folder(tmp_path / "plain", llama(num_hidden_layers=1))

    done = subprocess.run([sys.executable, "-c", KILLED, str(when), folder, tmp_path / "out"], check=False)

    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert write_padded(folder, tmp_path / "out", rank=8).rank == 8

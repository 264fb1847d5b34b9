"""What of a folder is taken, what is left out, what is refused."""

import os
import socket
import sys

import pytest

from registry.errors import IntakeError
from registry.files.intake import scan


@pytest.fixture
def folder(tmp_path):
    """The smallest adapter."""
    place = tmp_path / "sql-lora"
    place.mkdir()
    (place / "adapter_config.json").write_bytes(b"{}")
    (place / "adapter_model.safetensors").write_bytes(b"weights")
    return place


SMALLEST = ["adapter_config.json", "adapter_model.safetensors"]


def paths(intake):
    return [file.path for file in intake.files]


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


class TestTaken:
    def test_config_and_weights_with_their_places_and_sizes(self, folder):
        intake = scan(folder)

        assert [(file.path, file.absolute, file.size) for file in intake.files] == [
            ("adapter_config.json", folder / "adapter_config.json", 2),
            ("adapter_model.safetensors", folder / "adapter_model.safetensors", 7),
        ]
        assert intake.left_out == ()

    def test_a_trainers_folder_is_pushed_as_it_is_and_the_rest_is_listed(self, folder):
        make(
            folder,
            *["README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"],
            *["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"],
            *["checkpoint-7/adapter_config.json", "checkpoint-7/adapter_model.safetensors", "runs/Nov22/events.1"],
        )

        intake = scan(folder)

        assert paths(intake) == [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "chat_template.jinja",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        assert intake.left_out == (
            "checkpoint-7/",
            "optimizer.pt",
            "rng_state.pth",
            "runs/",
            "scheduler.pt",
            "trainer_state.json",
            "training_args.bin",
        )

    def test_a_pickled_twin_is_left_out(self, folder):
        make(folder, "adapter_model.bin")

        assert scan(folder).left_out == ("adapter_model.bin",)

    def test_include_adds_a_file_and_subfolders(self, folder):
        make(folder, "eval.json", "plots/loss.png", "plots/notes.txt", "other/x")

        intake = scan(folder, ["eval.json", "plots/*.png"])

        assert paths(intake) == [*SMALLEST, "eval.json", "plots/loss.png"]
        assert intake.left_out == ("other/", "plots/notes.txt")

    def test_including_what_is_taken_anyway_is_fine(self, folder):
        assert paths(scan(folder, ["adapter_config.json"])) == SMALLEST

    def test_a_glob_that_matches_nothing_is_named(self, folder):
        with pytest.raises(IntakeError, match=r"--include \*\.csv: matches no file of .*sql-lora"):
            scan(folder, ["*.csv"])

    def test_a_glob_cannot_leave_the_folder(self, folder):
        make(folder.parent, "secret")

        for pattern in ("../secret", str(folder.parent / "secret"), "../*"):
            with pytest.raises(IntakeError, match="matches no file"):
                scan(folder, [pattern])

    def test_a_link_to_the_folder_is_followed(self, folder, tmp_path):
        (tmp_path / "link").symlink_to(folder)

        intake = scan(tmp_path / "link")

        assert paths(intake) == SMALLEST
        with intake.files[0].open() as descriptor:
            assert os.read(descriptor, 10) == b"{}"

    def test_empty_folders_and_links_that_are_not_taken_are_left_out(self, folder):
        (folder / "empty").mkdir()
        (folder / "latest").symlink_to("checkpoint-7")
        os.mkfifo(folder / "pipe")

        assert scan(folder).left_out == ("empty/", "latest", "pipe")

    def test_a_linked_subfolder_is_never_entered(self, folder, tmp_path):
        make(tmp_path, "elsewhere/a.txt")
        (folder / "sub").symlink_to(tmp_path / "elsewhere")

        with pytest.raises(IntakeError, match="matches no file"):
            scan(folder, ["sub/*"])


class TestRefused:
    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(IntakeError, match="absent: No such file or directory"):
            scan(tmp_path / "absent")

    def test_a_file(self, folder):
        with pytest.raises(IntakeError, match="is no folder, expected an adapter's folder"):
            scan(folder / "adapter_config.json")

    def test_a_folder_without_config_names_where_there_is_one(self, folder):
        with pytest.raises(IntakeError, match=r"no adapter_config\.json in it") as caught:
            scan(folder.parent)
        assert caught.value.hint == f"adapters push {folder}"

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(IntakeError, match=r"no adapter_config\.json in it") as caught:
            scan(tmp_path)
        assert caught.value.hint is None

    def test_a_folder_without_weights(self, folder):
        (folder / "adapter_model.safetensors").unlink()

        with pytest.raises(IntakeError, match=r"no adapter_model\.safetensors in it"):
            scan(folder)

    def test_pickled_weights_alone(self, folder):
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")

        with pytest.raises(IntakeError, match=r"adapter_model\.bin is not taken, only safetensors is") as caught:
            scan(folder)
        assert caught.value.hint == f"adapters convert {folder} --to {folder}-safetensors"

    @pytest.mark.parametrize("name", [*SMALLEST, "README.md"])
    def test_a_link_among_the_files(self, folder, tmp_path, name):
        """As in the cache of the Hugging Face hub: the hint makes a folder of real files."""
        (tmp_path / "real").write_bytes(b"secret")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "real")

        with pytest.raises(IntakeError, match=f"{name}: is a symbolic link") as caught:
            scan(folder)
        assert caught.value.hint == f"cp -rL {folder} COPY, then name that copy"

    def test_a_pipe_among_the_files(self, folder):
        os.mkfifo(folder / "README.md")

        with pytest.raises(IntakeError, match=r"README\.md: is no regular file"):
            scan(folder)

    def test_a_socket_among_the_files(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("tokenizer.json")

            with pytest.raises(IntakeError, match=r"tokenizer\.json: is no regular file"):
                scan(folder)

    @pytest.mark.skipif(os.geteuid() != 0, reason="making a device needs root")
    def test_a_device_among_the_files(self, folder):
        os.mknod(folder / "README.md", 0o020666, os.makedev(1, 5))

        with pytest.raises(IntakeError, match=r"README\.md: is no regular file"):
            scan(folder)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("README.md", "readme.md"),
            ("README_\u00e9.md", "README_e\u0301.md"),
            ("README_stra\u00dfe", "README_STRASSE"),
            ("sub/a", "SUB/b"),
        ],
    )
    def test_names_that_some_file_system_takes_for_one(self, folder, one, other):
        make(folder, one, other)

        with pytest.raises(IntakeError, match="cannot lie side by side"):
            scan(folder, ["**"])

    def test_twins_that_are_left_out_do_not_matter(self, folder):
        make(folder, "Notes", "notes")

        assert scan(folder).left_out == ("Notes", "notes")

    @pytest.mark.parametrize(
        "name",
        [
            "README\n.md",
            "README\x1b[31m.md",
            "README\u202e.md",
            "README\\x.md",
            "README ",
            "README.",
            "README:x",
            "aux.txt",
        ],
    )
    def test_names_that_are_not_portable_or_would_mislead(self, folder, name):
        make(folder, name)

        with pytest.raises(IntakeError, match="the name "):
            scan(folder, ["*"])

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse the name themselves")
    def test_a_name_that_is_no_utf8_is_shown_escaped(self, folder):
        (folder / os.fsdecode(b"README\xff")).touch()

        with pytest.raises(IntakeError, match=r"README\\xff: the name has control, invisible or undecodable"):
            scan(folder)

    def test_a_left_out_name_that_is_no_utf8_is_listed_as_text(self, folder):
        (folder / os.fsdecode(b"log\xff")).touch()

        assert scan(folder).left_out == ("log\\xff",)


class TestOpening:
    """Between the scan and the opening, the folder may change."""

    def test_a_file_replaced_by_a_link_is_refused(self, folder, tmp_path):
        intake = scan(folder)
        (tmp_path / "secret").write_bytes(b"secret")
        (folder / "adapter_config.json").unlink()
        (folder / "adapter_config.json").symlink_to(tmp_path / "secret")

        with pytest.raises(IntakeError, match=r"adapter_config\.json: cannot be read"), intake.files[0].open():
            pytest.fail("a link was opened")

    def test_a_subfolder_replaced_by_a_link_is_refused(self, folder, tmp_path):
        make(folder, "sub/a.txt")
        make(tmp_path, "elsewhere/a.txt")
        intake = scan(folder, ["sub/*"])
        (folder / "sub").rename(tmp_path / "moved")
        (folder / "sub").symlink_to(tmp_path / "elsewhere")

        with pytest.raises(IntakeError, match=r"a\.txt: cannot be read"), intake.files[-1].open():
            pytest.fail("a linked folder was entered")

    def test_a_file_replaced_by_a_pipe_is_refused_without_waiting(self, folder):
        intake = scan(folder)
        (folder / "adapter_config.json").unlink()
        os.mkfifo(folder / "adapter_config.json")

        with pytest.raises(IntakeError, match="not a regular file"), intake.files[0].open():
            pytest.fail("a pipe was opened")

    def test_a_file_that_is_gone_is_named(self, folder):
        intake = scan(folder)
        (folder / "adapter_config.json").unlink()

        with (
            pytest.raises(IntakeError, match=r"adapter_config\.json: cannot be read: No such file"),
            intake.files[0].open(),
        ):
            pytest.fail("nothing was opened")

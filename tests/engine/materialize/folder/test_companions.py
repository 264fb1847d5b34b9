"""The files beside the weights: which come along, from where, and what is refused."""

import json
import os

import pytest

from engine.errors import BaseError, ChangedError, RefusedError
from engine.materialize import Request, Source, materialize
from engine.materialize.folder import companions
from engine.materialize.folder.companions import copy_companion, is_companion
from tests.engine.materialize.small import contents, make_adapter, make_base, request

FOLDER = {
    "generation_config.json": True,
    "tokenizer.json": True,
    "tokenizer_config.json": True,
    "tokenizer.model": True,
    "tokenizer.model.v3": True,
    "special_tokens_map.json": True,
    "added_tokens.json": True,
    "vocab.json": True,
    "vocab.txt": True,
    "merges.txt": True,
    "spiece.model": True,
    "sentencepiece.bpe.model": True,
    "qwen.tiktoken": True,
    "tekken.json": True,
    "chat_template.jinja": True,
    "additional_chat_templates/tool.jinja": True,
    "preprocessor_config.json": True,
    "processor_config.json": True,
    "video_preprocessor_config.json": True,
    "modeling_own.py": True,
    "LICENSE": True,
    "LICENSE.txt": True,
    "USE_POLICY.md": True,
    "Notice.txt": True,
    "modules.json": True,
    "1_Pooling/config.json": True,
    "2_Dense/model.safetensors": True,
    "README.md": False,
    "pytorch_model.bin": False,
    "pytorch_model.bin.index.json": False,
    "tf_model.h5": False,
    "model.gguf": False,
    "consolidated.safetensors": False,
    "optimizer.pt": False,
    "rng_state.pth": False,
    "training_args.bin": False,
    "trainer_state.json": False,
    "adapter_config.json": False,
    "adapter_model.safetensors": False,
    "original/params.json": False,
    "original/tokenizer.model": False,
    "onnx/model.onnx": False,
    "license.bin": False,
    "tokenizer.pkl": False,
    ".gitattributes": False,
    "2_Dense/pytorch_model.bin": False,
}
OWN = {"README.md", "config.json", "materialize.json", "model.safetensors"}


def base_with(folder, files):
    base = make_base(folder, sharded=False)
    for name, content in files.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(content)
    return base


def made(tmp_path, base, *sources):
    materialize(Request(base=base, sources=tuple(Source(path, name=path.name) for path in sources)), tmp_path / "out")
    return {name: content.decode() for name, content in contents(tmp_path / "out").items() if name not in OWN}


def test_what_makes_a_models_input_its_code_and_its_terms_come_along(tmp_path):
    base = base_with(tmp_path / "base", {name: f"of {name}" for name in FOLDER})

    found = made(tmp_path, base)

    assert found == {name: f"of {name}" for name, wanted in FOLDER.items() if wanted}


@pytest.mark.parametrize("name", FOLDER)
def test_a_name_is_a_companions_or_not(name):
    assert is_companion(name) == FOLDER[name]


def test_links_of_a_hub_cache_become_files(tmp_path):
    """snapshots/REVISION/NAME links to blobs/DIGEST beside snapshots."""
    cache = tmp_path / "models--meta--small"
    snapshot = cache / "snapshots" / "abc"
    blobs = cache / "blobs"
    source = base_with(tmp_path / "plain", {"tokenizer.json": "{}", "1_Pooling/config.json": "p"})
    blobs.mkdir(parents=True)
    for number, (name, content) in enumerate(contents(source).items()):
        (blobs / str(number)).write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))

    assert made(tmp_path, snapshot) == {"tokenizer.json": "{}", "1_Pooling/config.json": "p"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    """A repository that is not a hub cache's could otherwise have anyone publish a file of theirs."""
    base = base_with(tmp_path / "base", {})
    (tmp_path / "secret").write_text("mine")
    (base / "tokenizer.json").symlink_to(tmp_path / "secret")

    with pytest.raises(BaseError, match=r"tokenizer\.json: a link out of the folder"):
        made(tmp_path, base)


def test_the_blobs_of_an_outer_cache_are_out_of_the_folder(tmp_path):
    """Only those of the cache that holds the snapshot are its own, whatever folders stand above are called."""
    outer = tmp_path / "snapshots" / "backup" / "models--meta--small"
    base = base_with(outer / "snapshots" / "abc", {})
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0").write_text("mine")
    (base / "tokenizer.json").symlink_to(tmp_path / "blobs" / "0")

    with pytest.raises(BaseError, match=r"tokenizer\.json: a link out of the folder"):
        made(tmp_path, base)


@pytest.mark.parametrize("name", ["LICENSE.PKL", "license.Bin", "tokenizer_x.model.pt", "chat_template.jinja.so"])
def test_a_pickle_is_no_companion_however_it_is_spelled(name):
    assert not is_companion(name)


@pytest.mark.parametrize("name", ["LICENSE", "Vocab.JSON", "USE_POLICY.md", "Modeling_Own.py"])
def test_a_companion_is_one_however_it_is_spelled(name):
    assert is_companion(name)


def test_a_link_within_the_folder_is_followed(tmp_path):
    base = base_with(tmp_path / "base", {"vocab.json": "{}"})
    (base / "vocab2.json").symlink_to("vocab.json")

    assert made(tmp_path, base) == {"vocab.json": "{}", "vocab2.json": "{}"}


def test_a_pipe_is_not_waited_for(tmp_path):
    base = base_with(tmp_path / "base", {})
    os.mkfifo(base / "tokenizer.json")

    with pytest.raises(BaseError, match="not a regular file"):
        made(tmp_path, base)


def test_a_link_to_nothing_is_named(tmp_path):
    base = base_with(tmp_path / "base", {})
    (base / "tokenizer.json").symlink_to("gone")

    with pytest.raises(BaseError, match=r"tokenizer\.json: cannot be read"):
        made(tmp_path, base)


def test_a_file_beyond_all_bounds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(companions, "LARGEST", 10)
    base = base_with(tmp_path / "base", {"tokenizer.json": "x" * 11})

    with pytest.raises(BaseError, match="larger than 10 bytes"):
        made(tmp_path, base)
    (base / "tokenizer.json").write_text("{}        ")
    assert made(tmp_path, base) == {"tokenizer.json": "{}        "}


def test_a_companion_that_changes_before_it_is_copied_is_noticed(tmp_path):
    base = base_with(tmp_path / "base", {"tokenizer.json": "one"})
    (found,) = companions.companions(base, (), resized=False)
    (base / "tokenizer.json").write_text("two")

    with pytest.raises(ChangedError):
        copy_companion(found, tmp_path)


def adapter_with(folder, files):
    make_adapter(folder)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def added(*tokens):
    return json.dumps({"added_tokens": [{"id": number, "content": token} for number, token in enumerate(tokens)]})


BASE_TOKENIZER = {"tokenizer.json": added("<s>", "</s>"), "merges.txt": "a b", "generation_config.json": "{}"}


def test_an_adapters_own_tokens_bring_its_whole_tokenizer(tmp_path):
    """The base's merges.txt numbers other tokens: it stays behind. What is no tokenizer is the base's still."""
    base = base_with(tmp_path / "base", BASE_TOKENIZER)
    own = {"tokenizer.json": added("<s>", "</s>", "<tool>"), "chat_template.jinja": "hi"}

    found = made(tmp_path, base, adapter_with(tmp_path / "adapter", {**own, "README.md": "x"}))

    assert found == {**own, "generation_config.json": "{}"}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": added("<s>")},
        {"tokenizer_config.json": json.dumps({"added_tokens_decoder": {"0": {"content": "</s>"}}})},
        {"added_tokens.json": json.dumps({"<s>": 0})},
        {},
    ],
)
def test_an_adapter_without_tokens_of_its_own_leaves_the_bases_tokenizer(tmp_path, files):
    base = base_with(tmp_path / "base", BASE_TOKENIZER)

    assert made(tmp_path, base, adapter_with(tmp_path / "adapter", files)) == BASE_TOKENIZER


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": json.dumps({"added_tokens_decoder": {"2": {"content": "<tool>"}}})},
        {"added_tokens.json": json.dumps({"<tool>": 2})},
    ],
)
def test_own_tokens_are_found_in_each_file_that_states_them(tmp_path, files):
    base = base_with(tmp_path / "base", BASE_TOKENIZER)

    found = made(tmp_path, base, adapter_with(tmp_path / "adapter", files))

    assert found == {**files, "generation_config.json": "{}"}


def test_a_resized_vocabulary_brings_the_adapters_tokenizer(tmp_path):
    base = base_with(tmp_path / "base", BASE_TOKENIZER)
    adapter = adapter_with(tmp_path / "adapter", {"tokenizer.json": added("<s>")})

    names = {
        resized: {
            (one.name, one.file.parent.name) for one in companions.companions(base, (Source(adapter),), resized=resized)
        }
        for resized in (False, True)
    }

    assert names[True] == {("generation_config.json", "base"), ("tokenizer.json", "adapter")}
    assert ("tokenizer.json", "base") in names[False]


def test_a_base_without_tokenizer_takes_the_adapters(tmp_path):
    base = base_with(tmp_path / "base", {})

    assert made(tmp_path, base, adapter_with(tmp_path / "adapter", {"tokenizer.json": "{}"})) == {
        "tokenizer.json": "{}"
    }


def test_two_adapters_may_bring_the_same_tokenizer_and_no_two(tmp_path):
    base = base_with(tmp_path / "base", BASE_TOKENIZER)
    first = adapter_with(tmp_path / "first", {"tokenizer.json": added("<a>")})
    same = adapter_with(tmp_path / "same", {"tokenizer.json": added("<a>")})
    other = adapter_with(tmp_path / "other", {"tokenizer.json": added("<b>")})

    assert made(tmp_path, base, first, same)["tokenizer.json"] == added("<a>")
    with pytest.raises(RefusedError, match="same and other: bring different tokenizers"):
        materialize(Request(base=base, sources=(Source(first), Source(same), Source(other))), tmp_path / "two")


@pytest.mark.parametrize("content", ["[]", "{", '{"added_tokens": [{}]}', '{"added_tokens": 1}', "[" * 5000])
def test_a_tokenizer_that_does_not_say_its_tokens_is_named(tmp_path, content):
    base = base_with(tmp_path / "base", BASE_TOKENIZER)

    with pytest.raises(BaseError, match="does not state its added tokens"):
        made(tmp_path, base, adapter_with(tmp_path / "adapter", {"tokenizer.json": content}))


def test_companions_count_for_the_plan(tmp_path):
    """Two runs whose tokenizers differ are not one another's continuation."""
    from engine.materialize.plan import plan

    wanted = request(tmp_path)
    (wanted.base / "tokenizer.json").write_text("one")
    first = plan(wanted, tmp_path / "out").digest
    (wanted.base / "tokenizer.json").write_text("two")

    assert plan(wanted, tmp_path / "out").digest != first

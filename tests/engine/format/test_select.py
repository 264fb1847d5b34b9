"""Which files of a folder make a version."""

import pytest

from engine.format.select import select_files

CORE = ["adapter_config.json", "adapter_model.safetensors"]


def test_a_trainers_folder_leaves_its_leftovers_out():
    companions = ["README.md", "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json"]
    companions += [
        "additional_chat_templates/tool.jinja",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer.model",
    ]
    leftovers = [
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        ".git/config",
    ]
    leftovers += [
        "checkpoint-7/adapter_model.safetensors",
        "checkpoint-7/README.md",
        "adapter_model.bin",
        "runs/events",
    ]
    chosen = select_files(CORE + companions + leftovers)
    assert chosen.included == tuple(sorted(CORE + companions))
    assert chosen.left_out == tuple(sorted(leftovers))
    assert (chosen.missing, chosen.unused) == ((), ())


@pytest.mark.parametrize(
    "name",
    ["tokenizer.py", "tokenizer.pkl", "README.so", "x_tokenizer.json", "Adapter_config.json", "tokenizer/a.json"],
)
def test_code_pickles_and_other_names_are_left_out(name):
    assert select_files([*CORE, name]).left_out == (name,)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["a.txt"]),
        ("sub/*", ["sub/b.txt"]),
        ("**", ["a.txt", "sub/b.txt", "sub/deep/c.txt"]),
        ("**/*.txt", ["a.txt", "sub/b.txt", "sub/deep/c.txt"]),
        ("sub/**/c.txt", ["sub/deep/c.txt"]),
        ("?.txt", ["a.txt"]),
        ("[ab].txt", ["a.txt"]),
        ("A.TXT", []),
    ],
)
def test_include_patterns(pattern, found):
    chosen = select_files([*CORE, "a.txt", "sub/b.txt", "sub/deep/c.txt"], [pattern])
    assert [name for name in chosen.included if name not in CORE] == found
    assert chosen.unused == (() if found else (pattern,))


def test_missing_files_are_named():
    assert select_files(["adapter_config.json"]).missing == ("adapter_model.safetensors",)

"""Plain PEFT folders through the catalog, and what recipes say of engines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.compat.engines.target import ENGINES, parse_target
from engine.format.imageset import read_imageset
from registry.artifacts.recipe import engine_text
from registry.errors import CorruptError, FindingsError, NotFoundError, UsageError
from tests.registries import MODULES, factors, make_adapter
from tests.registry.artifacts import world


@pytest.fixture
def database_url(sqlite_template, tmp_path):
    return world.sqlite_alone(sqlite_template, tmp_path)


def plain(registry, to, *refs, **options):
    return registry.materialize(refs or ("team/a",), kind="peft", to=to, **options)


def update(folder, module):
    """ΔW of a module by the folder's own configuration."""
    config, tensors = (
        json.loads((folder / "adapter_config.json").read_text()),
        load_file(folder / "adapter_model.safetensors"),
    )
    a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return config["lora_alpha"] / config["r"] * b @ a


def wanted(seed, module):
    one = factors(seed)
    a, b = (one[f"base_model.model.{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return 2 * b @ a


def test_an_adapter_as_it_is_keeps_every_byte(registry, tmp_path):
    result = plain(registry, tmp_path / "out")

    assert world.bytes_of(tmp_path / "out") == world.bytes_of(tmp_path / "a")
    assert (result.recipe["kind"], result.recipe["base"], result.recipe["rank"]) == ("peft", None, None)
    assert {path.stat().st_mode & 0o111 for path in (tmp_path / "out").iterdir()} == {0}


def test_a_padded_adapter_has_the_rank_and_the_same_update(registry, tmp_path):
    result = plain(registry, tmp_path / "out", rank=8)

    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 8
    for module in MODULES:
        np.testing.assert_allclose(update(tmp_path / "out", module), wanted(1, module), rtol=1e-6)
    assert result.report["rank"] == 8


@pytest.mark.parametrize("rank", [None, 8])
def test_an_adapter_for_an_engine_is_one_artifact_with_its_release(registry, tmp_path, rank):
    result = plain(registry, tmp_path / "out", rank=rank, for_engine="vllm")

    engine, _, release = result.recipe["engine"].partition("@")
    assert (engine, bool(release)) == ("vllm", True)
    assert result.recipe["base"] == {
        "fingerprint": registry.base("team/base").layout,
        "files": registry.base("team/base").layout,
        "name": None,
    }
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == (rank or 2)
    again = plain(registry, tmp_path / "again", rank=rank, for_engine=result.recipe["engine"])
    assert (again.artifact, again.reused) == (1, "copied")


def test_every_form_is_rebuilt_from_its_recipe(registry, tmp_path):
    plain(registry, tmp_path / "as-is")
    plain(registry, tmp_path / "padded", rank=8)
    plain(registry, tmp_path / "rewritten", rank=8, for_engine="vllm:max_lora_rank=64")

    digests = {one.artifact: one.digest for one in registry.artifacts()}
    assert {number: registry.rebuild_artifact(number).digest for number in (1, 2, 3)} == digests


def test_an_adapter_that_was_never_pushed_is_padded_too(registry, tmp_path):
    folder = make_adapter(tmp_path / "new", 5, base_model_name_or_path="nobody/knows")

    result = plain(registry, tmp_path / "out", folder, rank=4, for_engine="peft")

    assert result.recipe["base"] is None
    for module in MODULES:
        np.testing.assert_allclose(update(tmp_path / "out", module), wanted(5, module), rtol=1e-6)


def test_an_engines_base_may_be_named_and_must_be_known(registry, tmp_path):
    by_name = plain(registry, tmp_path / "named", for_engine="vllm", base="team/base")
    by_path = plain(registry, tmp_path / "path", for_engine="vllm", base=tmp_path / "base")
    assert by_name.recipe["base"] == by_path.recipe["base"] is not None

    with pytest.raises(NotFoundError, match="base team/none"):
        plain(registry, tmp_path / "none", for_engine="vllm", base="team/none")


def test_what_an_engine_cannot_load_is_refused_by_name(registry, tmp_path):
    dora = {f"base_model.model.{name}.lora_magnitude_vector": np.ones(out) for name, (_, out) in MODULES.items()}
    make_adapter(
        tmp_path / "dora", tensors={**factors(1), **{k: v.astype(np.float32) for k, v in dora.items()}}, use_dora=True
    )

    with pytest.raises(FindingsError) as caught:
        plain(registry, tmp_path / "out", tmp_path / "dora", for_engine="vllm")

    assert any("dora" in finding.rule for finding in caught.value.findings)
    assert not (tmp_path / "out").exists()


def test_a_set_of_adapters_is_one_file_of_images_that_the_engine_reads(registry, tmp_path):
    folder = make_adapter(tmp_path / "new", 5, rank=3)

    result = registry.materialize(["team/a", folder], kind="hotswap", to=tmp_path / "out", rank=8)

    (file,) = (tmp_path / "out").iterdir()
    images = read_imageset(file)
    assert list(images.images) == ["team/a@1", "new"]
    assert images.swap_class.target_rank == 8
    assert result.report["class"] == images.swap_class.digest
    assert result.report["images"]["new"]["sha256"] == images.images["new"].sha256
    assert [one["name"] for one in result.recipe["parents"]] == ["team/a@1", "new"]


def test_images_are_kept_linked_verified_and_built_again_like_the_rest(registry, tmp_path):
    first = registry.materialize(["team/a", "team/b"], kind="hotswap", to=tmp_path / "out", store=True)
    again = registry.materialize(["team/a", "team/b"], kind="hotswap", to=tmp_path / "two")
    assert (again.artifact, again.reused) == (1, "copied")
    assert registry.verify_artifact(1).digest == first.digest
    assert registry.rebuild_artifact(1).digest == first.digest
    world.flip(tmp_path / "out" / "adapters.safetensors", -4096)
    with pytest.raises(CorruptError, match="tensor team/b@1"):
        registry.verify_artifact(str(tmp_path / "out"))


def test_two_images_of_one_name_are_refused(registry, tmp_path):
    folders = [make_adapter(tmp_path / place / "same", 5) for place in ("x", "y")]

    with pytest.raises(UsageError, match="two adapters would be image 'same'"):
        registry.materialize(folders, kind="hotswap", to=tmp_path / "out")


def test_images_may_take_the_modules_of_a_base(registry, tmp_path):
    sizes = {
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 3,
    }
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "vocab_size": 10}
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, **sizes}))

    result = registry.materialize(["team/a"], kind="hotswap", to=tmp_path / "out", base="team/base")

    assert result.recipe["base"]["fingerprint"] == registry.base("team/base").fingerprint
    with pytest.raises(NotFoundError, match="base team/none"):
        registry.materialize(["team/a"], kind="hotswap", to=tmp_path / "no", base="team/none")


@pytest.mark.parametrize(
    ("refs", "options", "message"),
    [
        (("team/a", "team/b"), {}, "2 adapters: --as peft writes one"),
        ((), {"dtype": "bf16"}, "--dtype is of --as merged, not of --as peft"),
        ((), {"weights": [1.0]}, "--weights is of --as merged, not of --as peft"),
        ((), {"resume": True}, "--resume is of --as merged, not of --as peft"),
        ((), {"rank": 0}, "rank 0: expected a positive number"),
    ],
)
def test_options_of_other_forms_are_refused_not_ignored(registry, tmp_path, refs, options, message):
    with pytest.raises(UsageError, match=message):
        plain(registry, tmp_path / "out", *refs, **options)


def test_no_adapter_and_no_known_form_are_refused(registry, tmp_path):
    with pytest.raises(UsageError, match="nothing to materialise"):
        registry.materialize([], kind="merged", to=tmp_path / "out")
    with pytest.raises(UsageError, match="as 'onnx': expected one of merged, hotswap, peft"):
        registry.materialize(["team/a"], kind="onnx", to=tmp_path / "out")


@pytest.mark.parametrize("engine", [engine.name for engine in ENGINES])
def test_a_recipes_engine_is_read_as_the_same_target(engine):
    target = parse_target(engine)

    text = engine_text(target)

    assert parse_target(text) == target
    assert ("@" in text) is (target.version is not None)

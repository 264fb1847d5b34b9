"""adapter_config.json: what is kept, what is refused, and by which name."""

import copy
import json

import pytest

from engine.errors import ConfigError, HeaderError
from engine.format.configs.config import parse_config, read_config

LORA = {"peft_type": "LORA", "target_modules": ["q"]}


def parse(**values):
    return parse_config(json.dumps({**LORA, **values}).encode())


def refusal(text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode() if isinstance(text, str) else text, "folder/adapter_config.json")
    assert str(caught.value).startswith("folder/adapter_config.json: ")
    return caught.value


def test_minimal_config_gets_pefts_defaults():
    config = parse()
    assert (config.lora.r, config.lora.lora_alpha, config.lora.bias) == (8, 8, "none")
    assert config.lora.init_lora_weights is True
    assert (config.base_model_name_or_path, config.revision, config.task_type) == (None, None, None)
    assert (config.unknown, config.duplicates, config.inference_mode) == ((), (), False)


def test_common_fields_are_read():
    config = parse(
        base_model_name_or_path="b", revision="r", task_type="CAUSAL_LM", inference_mode=True, peft_version="0.18.0"
    )
    assert (config.base_model_name_or_path, config.revision, config.task_type) == ("b", "r", "CAUSAL_LM")
    assert (config.inference_mode, config.peft_version) == (True, "0.18.0")


def test_empty_base_name_is_none():
    assert parse(base_model_name_or_path="").base_model_name_or_path is None


def test_unknown_keys_are_kept_verbatim_and_reported():
    config = parse(merge_weights=False, enable_lora=None, novelty={"a": [1]})
    assert config.unknown == ("enable_lora", "merge_weights", "novelty")
    assert config.raw["novelty"] == {"a": [1]}


def test_last_of_duplicate_keys_counts_and_all_are_named():
    config = parse_config(b'{"peft_type":"LORA","r":4,"target_modules":["q"],"r":16,"rank_pattern":{"x":1,"x":2}}')
    assert (config.lora.r, config.duplicates) == (16, ("x", "r"))
    assert config.lora.rank_pattern == {"x": 2}


def test_order_of_patterns_is_the_files():
    config = parse_config(b'{"peft_type":"LORA","rank_pattern":{"z":1,"a":2,"m":3}}')
    assert list(config.lora.rank_pattern) == ["z", "a", "m"]


def test_windows_line_ends_are_fine():
    assert parse_config(b'{\r\n "peft_type": "LORA",\r\n "r": 3\r\n}\r\n').lora.r == 3


@pytest.mark.parametrize("alpha", [2.5, 0, -1, True, 16])
def test_any_finite_alpha_is_kept(alpha):
    assert parse(lora_alpha=alpha).lora.lora_alpha == alpha


def test_lists_become_tuples_and_texts_stay():
    lora = parse(target_modules=["b", "a"], exclude_modules=".*x", layers_to_transform=[1, 2], layers_pattern="h").lora
    assert (lora.target_modules, lora.exclude_modules) == (("b", "a"), ".*x")
    assert (lora.layers_to_transform, lora.layers_pattern) == ((1, 2), "h")


def test_token_indices_may_be_a_list_or_lists_by_module():
    assert parse(trainable_token_indices=[5, 3, 5]).lora.trainable_token_indices == (5, 3, 5)
    assert parse(trainable_token_indices={"emb": [1]}).lora.trainable_token_indices == {"emb": (1,)}


def test_layer_replication_is_pairs():
    assert parse(layer_replication=[[0, 2], [1, 2]]).lora.layer_replication == ((0, 2), (1, 2))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", "4"),
        ("r", 4.0),
        ("r", None),
        ("lora_alpha", None),
        ("lora_alpha", "16"),
        ("lora_alpha", 10**400),
        ("lora_dropout", None),
        ("target_modules", {"q": 1}),
        ("target_modules", 3),
        ("target_modules", ["q", 3]),
        ("modules_to_save", "head"),
        ("rank_pattern", ["q"]),
        ("rank_pattern", {"q": "4"}),
        ("alpha_pattern", {"q": None}),
        ("bias", None),
        ("bias", "some"),
        ("use_dora", "false"),
        ("init_lora_weights", 3.5),
        ("layer_replication", [[0, 1, 2]]),
        ("layer_replication", [3]),
        ("target_parameters", "experts.w"),
        ("layers_to_transform", "1"),
        ("alora_invocation_tokens", ["a"]),
        ("kasa_config", True),
        ("task_type", 3),
        ("base_model_name_or_path", ["b"]),
    ],
)
def test_values_that_peft_could_not_use_are_refused_by_key(key, value):
    error = refusal(json.dumps({**LORA, key: value}))
    assert error.reason.startswith(key)


EMPTY = {
    "use_dora": [],
    "use_rslora": {},
    "fan_in_fan_out": "",
    "init_lora_weights": [],
    "modules_to_save": {},
    "exclude_modules": False,
    "layers_to_transform": {},
    "layers_pattern": 0,
    "alora_invocation_tokens": "",
    "layer_replication": {},
    "target_parameters": False,
    "loftq_config": [],
}
"""Empty values of the wrong type, of which PEFT asks only whether they are true."""


def test_empty_values_of_another_type_are_the_absent_ones():
    given, plain = parse(**EMPTY).lora, parse(init_lora_weights=False).lora
    assert given == plain


def test_peft_loads_empty_values_of_another_type_as_absent_ones(tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    model = torch.nn.ModuleDict({"q": torch.nn.Linear(4, 4)})
    settings = {"r": 2, "target_modules": ["q"], "init_lora_weights": False}
    made = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**settings))
    made.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | EMPTY))

    loaded = peft.PeftModel.from_pretrained(model, tmp_path)

    x = torch.ones(1, 4)
    assert torch.equal(loaded.base_model.model["q"](x), made.base_model.model["q"](x))
    assert not torch.equal(loaded.base_model.model["q"](x), loaded.base_model.model["q"].base_layer(x))


@pytest.mark.parametrize(
    "key", ["rank_pattern", "alpha_pattern", "trainable_token_indices", "eva_config", "use_bdlora"]
)
def test_where_peft_looks_into_the_value_an_empty_one_of_another_type_is_refused(key):
    assert refusal(json.dumps({**LORA, key: False})).reason.startswith(key)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"target_modules": "q", "layers_to_transform": [1]}, "layers_to_transform"),
        ({"target_modules": "q", "layers_pattern": "h"}, "layers_pattern"),
        ({"layers_pattern": "h"}, "layers_to_transform"),
        ({"use_dora": True, "megatron_config": {"a": 1}}, "megatron_config"),
        ({"lora_bias": True, "init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"lora_bias": True, "use_dora": True}, "lora_bias"),
        ({"init_lora_weights": "loftq"}, "loftq_config"),
    ],
)
def test_combinations_that_peft_refuses_are_refused(values, named):
    assert refusal(json.dumps({**LORA, **values})).reason.startswith(named)


class TestOtherTypes:
    def test_known_type_is_kept_with_its_own_keys(self):
        config = parse_config(b'{"peft_type":"IA3","feedforward_modules":["w"],"r":4}')
        assert (config.peft_type, config.known_type, config.lora) == ("IA3", True, None)
        assert config.unknown == ("r",)

    def test_unknown_type_is_accepted_and_flagged(self):
        config = parse_config(b'{"peft_type":"BONE","r":4,"revision":null}')
        assert (config.peft_type, config.known_type, config.unknown) == ("BONE", False, ("r",))

    def test_lower_case_lora_is_an_unknown_type(self):
        config = parse_config(b'{"peft_type":"lora","r":4}')
        assert (config.known_type, config.lora) == (False, None)

    def test_type_that_is_no_text_is_refused(self):
        assert "peft_type must be a string" in refusal('{"peft_type":3}').reason


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("document", "kind"),
        [
            ({"adapter_path": "a", "lora_layers": 4, "lora_parameters": {"rank": 8}}, "MLX"),
            ({"adapter_path": "a", "fine_tune_type": "lora", "num_layers": 4}, "MLX"),
            ({"config": {"r": 8}, "hidden_size": 768, "model_class": "Bert", "model_name": "b"}, "AdapterHub"),
            ({"_diffusers_version": "0.3"}, "diffusers"),
            ({"architectures": ["X"], "model_type": "llama"}, "transformers"),
        ],
    )
    def test_library_is_named(self, document, kind):
        error = refusal(json.dumps(document))
        assert error.kind == kind
        assert kind in str(error)

    def test_unrecognised_library_has_no_kind(self):
        error = refusal('{"r": 8}')
        assert error.kind is None
        assert "no peft_type" in str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('"LORA"', "not a JSON object"),
        ("\ufeff{}", "not JSON"),
        (b'{"peft_type":"\xff"}', "UTF-8"),
        ('{"peft_type":"LORA","x":"\\ud800"}', "lone surrogate"),
        ('{"peft_type":"LORA","lora_dropout":NaN}', "NaN"),
        ('{"peft_type":"LORA","lora_alpha":-Infinity}', "Infinity"),
        ("[" * 100_000, "nested too deep"),
        (b" " * (16 * 2**20 + 1), "larger than"),
    ],
)
def test_what_is_no_json_object_is_refused(text, reason):
    assert reason in refusal(text).reason


def test_configuration_behind_a_symbolic_link_is_not_opened(tmp_path):
    (tmp_path / "real").write_text(json.dumps(LORA))
    (tmp_path / "adapter_config.json").symlink_to(tmp_path / "real")
    with pytest.raises(HeaderError) as caught:
        read_config(tmp_path / "adapter_config.json")
    assert caught.value.code == "not-regular"


def test_size_and_path_are_told(tmp_path):
    path = tmp_path / "any-name"
    path.write_text('{"peft_type":"LORA"}')
    assert (read_config(path).size, read_config(path).path) == (20, path)

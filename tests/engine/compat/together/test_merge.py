"""Can these merge: the same refusals as the merge itself, without torch."""

import subprocess
import sys

import pytest

from engine.compat.together.check import check_together
from engine.compat.together.methods import ALIASES, METHODS
from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from engine.merge import METHODS as MERGE_METHODS
from engine.merge import Source, plan
from engine.merge.methods import ALIASES as MERGE_ALIASES
from tests.engine.merge.factories import PREFIX, conv, embedding, linear, normal, write_adapter
from tests.engine.merge.test_refusals import PLANTED, tensors

PAIR = {**linear("one", inputs=16, outputs=12, rank=4, seed=1)}
HEAD = {PREFIX + "head.weight": normal(1, 5, 12)}
BIAS = {PREFIX + "one.base_layer.bias": normal(1, 12)}
ROWS = {PREFIX + "emb.token_adapter.trainable_tokens_delta": normal(1, 2, 8)}
VECTOR = {PREFIX + "one.ia3_l": normal(1, 12, 1)}

# name -> (method, [(tensors, config), …])
GROUPS = {
    "alike": ("svd", [(PAIR, {}), (PAIR, {})]),
    "other-ranks": ("ties", [(PAIR, {}), (linear("one", inputs=16, outputs=12, rank=2, seed=3), {"r": 2})]),
    "other-shapes": ("svd", [(PAIR, {}), (linear("one", inputs=8, outputs=12, rank=4, seed=3), {})]),
    "other-kinds": ("svd", [(conv("one", inputs=4, outputs=6, kernel=(3,), rank=4, seed=1), {}), (PAIR, {})]),
    "embedding-beside-rows": ("svd", [(embedding("emb", vocabulary=20, width=8, rank=4, seed=1), {"target_modules": ["emb"]}), (PAIR | ROWS, {"trainable_token_indices": {"emb": [1, 2]}})]),
    "two-heads": ("svd", [(PAIR | HEAD, {"modules_to_save": ["head"]}), (PAIR | HEAD, {"modules_to_save": ["head"]})]),
    "factors-below-a-copy": ("svd", [(PAIR | HEAD, {"modules_to_save": ["head"]}), (PAIR | linear("head", inputs=12, outputs=5, rank=4, seed=4), {})]),
    "two-biases": ("svd", [(PAIR | BIAS, {"bias": "lora_only"}), (PAIR | BIAS, {"bias": "lora_only"})]),
    "two-rows": ("svd", [(PAIR | ROWS, {"trainable_token_indices": {"emb": [1, 2]}}), (PAIR | ROWS, {"trainable_token_indices": {"emb": [1, 2]}})]),
    "lora-bias-summed": ("cat", [(PAIR | {PREFIX + "one.lora_B.bias": normal(1, 12)}, {"lora_bias": True}), (PAIR, {})]),
    "lora-bias-not-summed": ("ties", [(PAIR | {PREFIX + "one.lora_B.bias": normal(1, 12)}, {"lora_bias": True}), (PAIR, {})]),
    "replication": ("svd", [(PAIR, {"layer_replication": [[0, 2], [1, 2]]}), (PAIR, {})]),
    "ia3": ("linear", [(VECTOR, {"peft_type": "IA3"}), (VECTOR, {"peft_type": "IA3"})]),
    "ia3-by-svd": ("svd", [(VECTOR, {"peft_type": "IA3"}), (VECTOR, {"peft_type": "IA3"})]),
    "ia3-and-lora": ("linear", [(VECTOR, {"peft_type": "IA3"}), (PAIR, {})]),
    "parameters-of-other-names": ("svd", [({PREFIX + "experts.lora_A.weight": normal(1, 12, 8), PREFIX + "experts.lora_B.weight": normal(2, 10, 12)}, {"target_modules": [], "target_parameters": [name]}) for name in ("experts.up", "experts.down")]),
    **{f"planted: {name}": ("svd", [(tensors(), {}), (tensors() | extra, config)]) for name, (_, config, extra) in PLANTED.items()},
}  # fmt: skip


def _folders(tmp_path, adapters):
    return [write_adapter(tmp_path / f"{place}", held, **config) for place, (held, config) in enumerate(adapters)]


def _said(findings):
    return sorted((finding.rule, finding.message) for finding in findings if finding.severity == "error")


@pytest.mark.parametrize("name", GROUPS)
def test_the_refusals_are_those_of_the_merge(tmp_path, name):
    method, adapters = GROUPS[name]
    folders = _folders(tmp_path, adapters)
    try:
        plan([Source(folder, 0.5) for folder in folders], method=method)
        refused = []
    except RefusedError as error:
        refused = error.findings

    answer = check_together([read_adapter(folder) for folder in folders], f"merge:{method}")

    assert _said(answer.findings) == _said(refused)
    assert {finding.target for finding in answer.findings} <= {f"merge:{method}"}


def test_methods_ask_what_the_table_of_merges_asks():
    asked = {
        name: (row.fewest, row.most, row.linear, row.full_rank)
        for name, row in METHODS.items()
    }  # fmt: skip
    table = {name: (row.fewest, row.most, row.linear, row.full_rank) for name, row in MERGE_METHODS.items()}

    assert asked == table
    assert ALIASES == MERGE_ALIASES


@pytest.mark.parametrize(
    ("method", "count", "refused"),
    [("slerp", 2, False), ("slerp", 3, True), ("resize", 1, False), ("resize", 2, True), ("model_stock", 1, True)],
)
def test_the_number_of_adapters_is_the_methods(tmp_path, method, count, refused):
    folders = _folders(tmp_path, [(PAIR, {})] * count)

    answer = check_together([read_adapter(folder) for folder in folders], f"merge:{method}")

    assert ("merge-count" in {finding.rule for finding in answer.findings}) == refused


def test_dora_merges_with_its_base_by_methods_that_take_full_rank(tmp_path):
    magnitude = {PREFIX + "one.lora_magnitude_vector": normal(1, 12)}
    facts = [read_adapter(one) for one in _folders(tmp_path, [(PAIR | magnitude, {"use_dora": True}), (PAIR, {})])]

    def rules(method, **base):
        return {finding.rule: finding.severity for finding in check_together(facts, f"merge:{method}", **base).findings}

    from engine.format.facts import BaseFacts

    base = BaseFacts(layout="sha256:" + "0" * 64, parameters={})
    assert rules("svd") == {"merge-dora": "error"}
    assert rules("svd", base=base) == {"merge-dora-unread": "info"}
    assert rules("cat", base=base) == {"merge-dora": "error", "merge-dora-unread": "info"}


def test_whole_names_stand_in_messages(tmp_path):
    facts = [read_adapter(one) for one in _folders(tmp_path, [(PAIR, {"use_qalora": True}), (PAIR, {})])]

    found = check_together(facts, "merge", names=["team/a@1", "team/b@2"]).findings

    assert [finding.message for finding in found] == ["team/a@1 is QALoRA, whose A sees pooled inputs (use_qalora)"]


def test_no_torch_is_imported():
    program = "import sys, engine.compat.together.check; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

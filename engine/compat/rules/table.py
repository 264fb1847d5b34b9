"""The one table of check-in rules. A rule is a row; its function lives with its subject."""

from __future__ import annotations

from engine.compat.rule import Rule
from engine.compat.rules import (
    bodies,
    coverage,
    fit,
    licence_rules,
    magnitude,
    numbers,
    overlap,
    pairs,
    replication,
    safety,
    settings,
    shapes,
    vocabulary,
)

RULES: tuple[Rule, ...] = (
    Rule("pair-incomplete", "error", "A module has only one of its two LoRA factors.", "tensors", pairs.incomplete),
    Rule("tensor-unmatched", "error", "A tensor is explained by nothing in the config.", "tensors", pairs.unmatched),
    Rule("shape-inner", "error", "The factors of a module cannot be multiplied.", "tensors", shapes.inner),
    Rule(
        "rank-mismatch", "error", "A factor's rank is not the one that r and rank_pattern give.", "tensors", shapes.rank
    ),
    Rule(
        "shape-extra",
        "error",
        "A DoRA magnitude or LoRA bias does not have one number per output.",
        "tensors",
        shapes.extras,
    ),
    Rule("value-nonfinite", "error", "A tensor holds NaN or Inf.", "values", numbers.nonfinite),
    Rule("base-module-absent", "error", "The base has no module of that name.", "base", fit.absent),
    Rule("base-prefix", "error", "Modules lie below another name than the base's.", "base", bodies.misplaced),
    Rule("base-shape", "error", "The factors of a module do not fit the base's weight.", "base", fit.shape),
    Rule("base-copy-shape", "error", "A full tensor has another shape than the base's.", "base", fit.copies),
    Rule("token-rows", "error", "A token's replaced row is missing or one too many.", "tensors", vocabulary.token_rows),
    Rule("token-absent", "error", "A replaced row is of no token of the base.", "base", vocabulary.token_numbers),
    Rule(
        "replication-range", "error", "layer_replication names layers that are not there.", "config", replication.ranges
    ),
    Rule(
        "replication-number",
        "error",
        "A module lies in a layer that layer_replication does not make.",
        "tensors",
        replication.numbers,
    ),
    Rule(
        "unsafe-megatron-config",
        "error",
        "`megatron_config` is set, which makes PEFT import a library.",
        "config",
        safety.megatron_config,
    ),
    Rule(
        "unsafe-megatron-core",
        "error",
        "`megatron_core` names another library than megatron.core.",
        "config",
        safety.megatron_core,
    ),
    Rule("unsafe-auto-map", "error", "`auto_map` names code to import, at any depth.", "config", safety.auto_map),
    Rule("unsafe-remote-code", "error", "`trust_remote_code` is on, at any depth.", "config", safety.trust_remote_code),
    Rule(
        "value-zero", "warning", "Modules add nothing: B (A for embeddings) is all zero.", "values", numbers.zero_factor
    ),
    Rule("norm-outlier", "warning", "A module changes far more than the others.", "values", magnitude.outliers),
    Rule(
        "norm-large",
        "warning",
        "A module changes by more than its weight's norm.",
        "values",
        magnitude.larger_than_base,
    ),
    Rule(
        "pattern-overlap",
        "warning",
        "Two patterns with different values match one module.",
        "tensors",
        overlap.overlapping,
    ),
    Rule("pattern-unmatched", "warning", "A pattern matches no adapted module.", "tensors", overlap.unmatched),
    Rule("target-unused", "warning", "target_modules names what no tensor adapts.", "tensors", overlap.unused_targets),
    Rule("target-fraction", "warning", "Targets in the base have no factors.", "base", coverage.fraction),
    Rule(
        "target-orientation",
        "warning",
        "fan_in_fan_out is not how the base stores weights.",
        "base",
        coverage.orientation,
    ),
    Rule("embedding-tied", "warning", "A table that the base ties is changed.", "base", vocabulary.tied),
    Rule("base-unknown", "warning", "The base is not named or not known here.", "config", settings.unnamed_base),
    Rule(
        "base-resized",
        "warning",
        "A full tensor has another number of rows than the base's.",
        "base",
        fit.resized_copies,
    ),
    Rule(
        "tensor-prefix", "warning", "Tensor names lack `base_model.model.`; PEFT ignores them.", "tensors", pairs.prefix
    ),
    Rule("tensor-none", "warning", "The weights file holds no tensor.", "tensors", pairs.nothing_adapted),
    Rule(
        "unsafe-library",
        "warning",
        "`auto_mapping.parent_library` is not a library that PEFT imports.",
        "config",
        safety.parent_library,
    ),
    Rule(
        "unsafe-kernel",
        "warning",
        "`_attn_implementation_internal` is set, at any depth.",
        "config",
        safety.attention_kernel,
    ),
    Rule("unsafe-pipelines", "warning", "`custom_pipelines` is set, at any depth.", "config", safety.custom_pipelines),
    Rule(
        "unsafe-cache-path",
        "warning",
        "A CorDA or LoRA-GA section names a file that PEFT unpickles.",
        "config",
        safety.cache_path,
    ),
    Rule(
        "unsafe-tokenizer-arguments",
        "warning",
        "A prompt's text comes with arguments for the tokenizer's loader.",
        "config",
        safety.prompt_text,
    ),
    Rule(
        "base-local-path",
        "warning",
        "The base is a path, URL or variable instead of a name.",
        "config",
        safety.local_base,
    ),
    Rule(
        "tokenizer-local-path",
        "warning",
        "The tokenizer is a path, URL or variable instead of a name.",
        "config",
        safety.local_tokenizer,
    ),
    Rule(
        "revision-moves",
        "warning",
        "The base's revision is a branch or tag, not a commit.",
        "config",
        safety.moving_revision,
    ),
    Rule(
        "pattern-targets",
        "warning",
        "Targets are a regular expression instead of a list.",
        "config",
        settings.regular_expression,
    ),
    Rule("type-unknown", "warning", "The peft_type is not one of peft 0.21.2.", "config", settings.unknown_type),
    Rule(
        "key-unknown", "warning", "The config has keys that peft 0.21.2 does not know.", "config", settings.unknown_keys
    ),
    Rule("key-duplicate", "warning", "The config repeats a key.", "config", settings.duplicate_keys),
    Rule("config-large", "warning", "The config is larger than 1 MB.", "config", settings.large_config),
    Rule(
        "embedding-replaced",
        "warning",
        "modules_to_save replaces an embedding or output table.",
        "config",
        safety.full_embedding,
    ),
    Rule("lora-bias", "warning", "The adapter carries LoRA biases.", "config", settings.lora_bias),
    Rule("target-parameters", "warning", "The adapter adapts bare parameters.", "config", settings.target_parameters),
    Rule(
        "layer-replication", "warning", "The adapter repeats layers of the base.", "config", settings.layer_replication
    ),
    Rule("init-changed-base", "warning", "Its initialisation changed the base.", "config", settings.changed_base),
    Rule("dtype-unusual", "warning", "Factors are no F32, F16 or BF16.", "tensors", settings.unusual_dtype),
    Rule("rank-large", "warning", "A rank is above 512.", "tensors", settings.large_rank),
    Rule("scaling-extreme", "warning", "lora_alpha / r lies outside 1/64 to 64.", "config", settings.extreme_scaling),
    Rule("file-template", "warning", "Chat template or tokenizer files travel along.", "config", safety.template_files),
    Rule("file-code", "warning", "The folder holds files with code.", "config", safety.code_files),
    Rule(
        "licence-of-base",
        "warning",
        "The base's licence asks for more than the adapter's.",
        "config",
        licence_rules.base_terms,
    ),
    Rule("scaling-rslora", "info", "The scaling is that of rsLoRA.", "config", settings.rank_stabilised),
    Rule("licence-unknown", "info", "Nothing is known here of the licence.", "config", licence_rules.unfamiliar),
    Rule("licence-missing", "info", "No licence is named.", "config", licence_rules.missing),
    Rule("value-unscanned", "info", "Tensors have a dtype not looked into.", "values", numbers.unscanned),
    Rule("base-quantized", "info", "The base is quantised, shapes are not compared.", "base", fit.quantized),
    Rule("base-renamed", "info", "The base's checkpoint holds other names than its modules.", "base", fit.renamed),
    Rule("base-unprinted", "info", "The base is known from its config alone.", "base", settings.unprinted_base),
    Rule("revision-none", "info", "The config names no revision of the base.", "config", safety.no_revision),
    Rule("inference-mode", "info", "inference_mode is false.", "config", settings.training_mode),
    Rule("dtype-mixed", "info", "The tensors have several dtypes.", "tensors", pairs.mixed_dtypes),
    Rule("rank-oversized", "info", "A rank exceeds its layer's smaller side.", "tensors", shapes.oversized_rank),
)


def describe_rules() -> str:
    """Give the table as Markdown: id, severity, needs and meaning. RULES.md holds this text."""
    rows = [f"| `{rule.id}` | {rule.severity} | {rule.needs} | {rule.summary} |" for rule in RULES]
    rows += [f"| `{rule.id}` | {rule.severity} | parents | {rule.summary} |" for rule in licence_rules.PARENT_RULES]
    return "\n".join(["| rule | severity | looks at | when it fires |", "|---|---|---|---|", *rows]) + "\n"

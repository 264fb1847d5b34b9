"""The first schema. Each later migration writes its ordinal, and `oldest_client` where it takes something away."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite only numbers rows by itself in a column declared exactly INTEGER PRIMARY KEY.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Byte order on both databases.
NAME = sa.String(96).with_variant(sa.String(96, collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("CURRENT_TIMESTAMP")
APPLICATION_ID = 0x41447074  # "ADpt", in the header of the SQLite file


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for create in TABLES.values():
        create()
    meta = sa.table("catalog_meta", sa.column("key"), sa.column("value"))
    op.bulk_insert(meta, [{"key": "schema", "value": "1"}, {"key": "oldest_client", "value": "1"}])


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA application_id = 0")


def _adapters() -> None:
    op.create_table(
        "adapters",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("namespace", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("last_number", NUMBER, server_default="0", nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("last_number >= 0", name=op.f("ck_adapters_last_number_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("namespace", "name", name=op.f("uq_adapters_namespace_name")),
    )
    op.create_index(op.f("ix_adapters_name"), "adapters", ["name"])


def _audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("actor", sa.String(length=256), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index(op.f("ix_audit_log_subject"), "audit_log", ["subject"])


def _bases() -> None:
    op.create_table(
        "bases",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("fingerprint", sa.String(length=71), nullable=True),
        sa.Column("layout", sa.String(length=71), nullable=False),
        sa.Column("architecture", sa.String(length=256), nullable=True),
        sa.Column("model_type", sa.String(length=128), nullable=True),
        sa.Column("dtype", sa.String(length=32), nullable=True),
        sa.Column("quantization", sa.String(length=64), nullable=True),
        sa.Column("tensors", sa.Integer(), nullable=False),
        sa.Column("parameter_count", NUMBER, nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False, comment="JSON object: canonical parameter path to shape"),
        sa.Column("config", sa.Text(), nullable=False, comment="config.json, verbatim JSON object"),
        sa.Column("norms", sa.Text(), nullable=True, comment="JSON object: path to Frobenius norm, where known"),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("layout LIKE 'sha256:%' AND length(layout) = 71", name=op.f("ck_bases_layout_format")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bases")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_bases_fingerprint")),
    )
    op.create_index(op.f("ix_bases_layout"), "bases", ["layout"])


def _blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", NUMBER, nullable=False),
        sa.Column("state", sa.String(length=16), server_default="live", nullable=False),
        sa.Column("condemned_at", MOMENT, nullable=True),
        sa.Column("verified_at", MOMENT, nullable=True, comment="when its bytes were last re-hashed"),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("digest LIKE 'sha256:%' AND length(digest) = 71", name=op.f("ck_blobs_digest_format")),
        sa.CheckConstraint("state IN ('live', 'condemned', 'deleting')", name=op.f("ck_blobs_state_known")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_blobs_size_not_negative")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )
    op.create_index(op.f("ix_blobs_state"), "blobs", ["state", "condemned_at"])


def _catalog_meta() -> None:
    op.create_table(
        "catalog_meta",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=1024), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_catalog_meta")),
    )


def _leases() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=256), nullable=True),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_expires_at"), "leases", ["expires_at"])


def _recipes() -> None:
    op.create_table(
        "recipes",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("digest LIKE 'sha256:%' AND length(digest) = 71", name=op.f("ck_recipes_digest_format")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipes")),
        sa.UniqueConstraint("digest", name=op.f("uq_recipes_digest")),
    )


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("recipe_id", NUMBER, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", NUMBER, nullable=False),
        sa.Column("places", sa.Text(), nullable=False, comment="JSON list of known paths"),
        sa.Column("body", sa.Text(), nullable=False, comment="JSON: per-tensor digests and report"),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("removed_at", MOMENT, nullable=True),
        sa.CheckConstraint("digest LIKE 'sha256:%' AND length(digest) = 71", name=op.f("ck_artifacts_digest_format")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_artifacts_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
    )
    op.create_index(op.f("ix_artifacts_recipe_id"), "artifacts", ["recipe_id"])


def _base_names() -> None:
    op.create_table(
        "base_names",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=1024), nullable=False),
        sa.Column("base_id", NUMBER, nullable=False),
        sa.Column("revision", sa.String(length=256), nullable=True),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["bases.id"], name=op.f("fk_base_names_base_id_bases")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_names")),
        sa.UniqueConstraint("name", "base_id", name=op.f("uq_base_names_name_base_id")),
    )
    op.create_index(op.f("ix_base_names_base_id"), "base_names", ["base_id"])


def _base_twins() -> None:
    op.create_table(
        "base_twins",
        sa.Column("base_id", NUMBER, nullable=False),
        sa.Column("twin_id", NUMBER, nullable=False),
        sa.Column("relation", sa.String(length=16), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("relation IN ('quantised', 'cast', 'renamed')", name=op.f("ck_base_twins_relation_known")),
        sa.ForeignKeyConstraint(["base_id"], ["bases.id"], name=op.f("fk_base_twins_base_id_bases")),
        sa.ForeignKeyConstraint(["twin_id"], ["bases.id"], name=op.f("fk_base_twins_twin_id_bases")),
        sa.PrimaryKeyConstraint("base_id", "twin_id", name=op.f("pk_base_twins")),
    )


def _lease_blobs() -> None:
    op.create_table(
        "lease_blobs",
        sa.Column("lease_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.CheckConstraint("digest LIKE 'sha256:%' AND length(digest) = 71", name=op.f("ck_lease_blobs_digest_format")),
        sa.ForeignKeyConstraint(
            ["lease_id"], ["leases.id"], name=op.f("fk_lease_blobs_lease_id_leases"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("lease_id", "digest", name=op.f("pk_lease_blobs")),
    )
    op.create_index(op.f("ix_lease_blobs_digest"), "lease_blobs", ["digest"])


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("adapter_id", NUMBER, nullable=False),
        sa.Column("number", NUMBER, nullable=False),
        sa.Column(
            "digest", sa.String(length=71), nullable=False, comment="sha256 of the manifest, which is a blob itself"
        ),
        sa.Column(
            "record_digest", sa.String(length=71), nullable=True, comment="the small blob the catalog is rebuilt from"
        ),
        sa.Column("tensors_digest", sa.String(length=71), nullable=True, comment="ignores header and file order"),
        sa.Column("newest", sa.Boolean(create_constraint=True, name="newest_bool"), nullable=False),
        sa.Column("peft_type", sa.String(length=64), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=True, comment="largest effective rank"),
        sa.Column("modules", sa.Integer(), nullable=False, comment="number of adapted modules"),
        sa.Column("parameters", NUMBER, nullable=True),
        sa.Column("dtype", sa.String(length=16), nullable=True),
        sa.Column(
            "norm", sa.Float(precision=53), nullable=True, comment="Frobenius norm over all delta weights together"
        ),
        sa.Column("size", NUMBER, nullable=False, comment="bytes of all files together"),
        sa.Column("base_id", NUMBER, nullable=True),
        sa.Column("base_name", sa.String(length=1024), nullable=True, comment="as the config or the pusher spelled it"),
        sa.Column("recipe_id", NUMBER, nullable=True),
        sa.Column("message", sa.String(length=4096), nullable=True),
        sa.Column("pushed_by", sa.String(length=256), nullable=True),
        sa.Column("git_commit", sa.String(length=64), nullable=True),
        sa.Column("run_id", sa.String(length=256), nullable=True),
        sa.Column("data_digest", sa.String(length=256), nullable=True),
        sa.Column("licence", sa.String(length=256), nullable=True),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("deleted_at", MOMENT, nullable=True),
        sa.Column("freed_at", MOMENT, nullable=True, comment="when gc freed its blobs; undelete ends here"),
        sa.CheckConstraint("digest LIKE 'sha256:%' AND length(digest) = 71", name=op.f("ck_versions_digest_format")),
        sa.CheckConstraint("deleted_at IS NULL OR NOT newest", name=op.f("ck_versions_deleted_is_not_newest")),
        sa.CheckConstraint("number > 0", name=op.f("ck_versions_number_positive")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_versions_size_not_negative")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_versions_adapter_id_adapters")),
        sa.ForeignKeyConstraint(["base_id"], ["bases.id"], name=op.f("fk_versions_base_id_bases")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_versions_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("adapter_id", "digest", name=op.f("uq_versions_adapter_id_digest")),
        sa.UniqueConstraint("adapter_id", "number", name=op.f("uq_versions_adapter_id_number")),
    )
    op.create_index(op.f("ix_versions_base_id"), "versions", ["base_id", "rank"])
    op.create_index(op.f("ix_versions_base_name"), "versions", ["base_name", "rank"])
    op.create_index(op.f("ix_versions_created_at"), "versions", ["created_at"])
    op.create_index(op.f("ix_versions_digest"), "versions", ["digest"])
    op.create_index(
        op.f("ix_versions_newest_base_id"),
        "versions",
        ["base_id", "rank"],
        sqlite_where=sa.text("newest"),
        postgresql_where=sa.text("newest"),
    )
    op.create_index(
        op.f("ix_versions_newest_base_name"),
        "versions",
        ["base_name", "rank"],
        sqlite_where=sa.text("newest"),
        postgresql_where=sa.text("newest"),
    )
    op.create_index(
        op.f("ix_versions_newest_id"),
        "versions",
        ["id", "adapter_id", "number", "rank", "size"],
        sqlite_where=sa.text("newest"),
        postgresql_where=sa.text("newest"),
    )
    op.create_index(
        op.f("ix_versions_newest_rank"),
        "versions",
        ["rank"],
        sqlite_where=sa.text("newest"),
        postgresql_where=sa.text("newest"),
    )
    op.create_index(op.f("ix_versions_tensors_digest"), "versions", ["tensors_digest"])
    op.create_index(
        op.f("uq_versions_newest"),
        "versions",
        ["adapter_id"],
        unique=True,
        sqlite_where=sa.text("newest"),
        postgresql_where=sa.text("newest"),
    )


def _alias_moves() -> None:
    op.create_table(
        "alias_moves",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("adapter_id", NUMBER, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("from_version_id", NUMBER, nullable=True),
        sa.Column("to_version_id", NUMBER, nullable=True),
        sa.Column("actor", sa.String(length=256), nullable=True),
        sa.Column("moved_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("action IN ('set', 'rm', 'rollback')", name=op.f("ck_alias_moves_action_known")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_alias_moves_adapter_id_adapters")),
        sa.ForeignKeyConstraint(
            ["from_version_id"], ["versions.id"], name=op.f("fk_alias_moves_from_version_id_versions")
        ),
        sa.ForeignKeyConstraint(["to_version_id"], ["versions.id"], name=op.f("fk_alias_moves_to_version_id_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_moves")),
    )
    op.create_index(op.f("ix_alias_moves_adapter_id_name"), "alias_moves", ["adapter_id", "name", "id"])


def _aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("adapter_id", NUMBER, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("moved_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_aliases_adapter_id_adapters")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_aliases_version_id_versions")),
        sa.PrimaryKeyConstraint("adapter_id", "name", name=op.f("pk_aliases")),
    )
    op.create_index(op.f("ix_aliases_name"), "aliases", ["name"])
    op.create_index(op.f("ix_aliases_version_id"), "aliases", ["version_id"])


def _check_results() -> None:
    op.create_table(
        "check_results",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("target", sa.String(length=128), nullable=False),
        sa.Column("ruleset", sa.String(length=71), nullable=False, comment="digest or version of the rules that ran"),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("findings", sa.Text(), nullable=False, comment="JSON list"),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "status IN ('pass', 'warn', 'inconclusive', 'fail')", name=op.f("ck_check_results_status_known")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_check_results_version_id_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_check_results")),
        sa.UniqueConstraint("version_id", "target", "ruleset", name=op.f("uq_check_results_version_id_target_ruleset")),
    )
    op.create_index(op.f("ix_check_results_target_status"), "check_results", ["target", "status", "version_id"])


def _documents() -> None:
    op.create_table(
        "documents",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_documents_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "kind", name=op.f("pk_documents")),
    )


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False, comment="file, manifest or record"),
        sa.Column("blob_digest", sa.String(length=71), nullable=True, comment="null once gc freed it"),
        sa.Column("sha256", sa.String(length=71), nullable=False, comment="stays when the blob is freed"),
        sa.Column("size", NUMBER, nullable=False),
        sa.CheckConstraint("sha256 LIKE 'sha256:%' AND length(sha256) = 71", name=op.f("ck_files_sha256_format")),
        sa.ForeignKeyConstraint(["blob_digest"], ["blobs.digest"], name=op.f("fk_files_blob_digest_blobs")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_files_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_files")),
    )
    op.create_index(op.f("ix_files_blob_digest"), "files", ["blob_digest"])


def _lineage() -> None:
    op.create_table(
        "lineage",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("child_id", NUMBER, nullable=False),
        sa.Column("parent_id", NUMBER, nullable=True),
        sa.Column("parent_digest", sa.String(length=71), nullable=False),
        sa.Column("relation", sa.String(length=32), nullable=False),
        sa.Column("weight", sa.Float(precision=53), nullable=True),
        sa.Column("position", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "parent_digest LIKE 'sha256:%' AND length(parent_digest) = 71", name=op.f("ck_lineage_parent_digest_format")
        ),
        sa.CheckConstraint(
            "relation IN ('merged_from', 'finetuned_from', 'converted_from')", name=op.f("ck_lineage_relation_known")
        ),
        sa.ForeignKeyConstraint(["child_id"], ["versions.id"], name=op.f("fk_lineage_child_id_versions")),
        sa.ForeignKeyConstraint(["parent_id"], ["versions.id"], name=op.f("fk_lineage_parent_id_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lineage")),
        sa.UniqueConstraint(
            "child_id", "relation", "parent_digest", name=op.f("uq_lineage_child_id_relation_parent_digest")
        ),
    )
    op.create_index(op.f("ix_lineage_parent_id"), "lineage", ["parent_id"])


def _metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_metrics_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "name", name=op.f("pk_metrics")),
    )
    op.create_index(op.f("ix_metrics_name_value"), "metrics", ["name", "value", "version_id"])


def _tags() -> None:
    op.create_table(
        "tags",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("key", NAME, nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_tags_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "key", name=op.f("pk_tags")),
    )
    op.create_index(op.f("ix_tags_key_value"), "tags", ["key", "value", "version_id"])


# In the order of their foreign keys.
TABLES = {
    "adapters": _adapters,
    "audit_log": _audit_log,
    "bases": _bases,
    "blobs": _blobs,
    "catalog_meta": _catalog_meta,
    "leases": _leases,
    "recipes": _recipes,
    "artifacts": _artifacts,
    "base_names": _base_names,
    "base_twins": _base_twins,
    "lease_blobs": _lease_blobs,
    "versions": _versions,
    "alias_moves": _alias_moves,
    "aliases": _aliases,
    "check_results": _check_results,
    "documents": _documents,
    "files": _files,
    "lineage": _lineage,
    "metrics": _metrics,
    "tags": _tags,
}

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
DIGEST = sa.String(71)
REAL = sa.Float(precision=53)
MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("CURRENT_TIMESTAMP")
APPLICATION_ID = 0x41447074  # "ADpt", in the header of the SQLite file


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for create in TABLES:
        create()
    meta = sa.table("catalog_meta", sa.column("key"), sa.column("value"))
    op.bulk_insert(meta, [{"key": "schema", "value": "1"}, {"key": "oldest_client", "value": "1"}])


def downgrade() -> None:
    for create in reversed(TABLES):
        op.drop_table(create.__name__.removeprefix("_"))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA application_id = 0")


def _create(table: str, *parts: sa.schema.SchemaItem, key: tuple[str, ...] = ()) -> None:
    """A table with the primary key `key`, or with a number of its own as one."""
    number = () if key else (sa.Column("id", NUMBER, nullable=False),)
    op.create_table(table, *number, *parts, sa.PrimaryKeyConstraint(*(key or ("id",)), name=op.f(f"pk_{table}")))


def _digest_check(table: str, column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(
        f"{column} LIKE 'sha256:%' AND length({column}) = 71", name=op.f(f"ck_{table}_{column}_format")
    )


def _foreign_key(table: str, column: str, target: str, *, ondelete: str | None = None) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{target}")
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=name, ondelete=ondelete)


def _index_newest(name: str, columns: list[str], *, unique: bool = False) -> None:
    """Over the newest versions alone."""
    newest = sa.text("newest")
    op.create_index(op.f(name), "versions", columns, unique=unique, sqlite_where=newest, postgresql_where=newest)


def _adapters() -> None:
    _create(
        "adapters",
        sa.Column("namespace", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("last_number", NUMBER, server_default="0", nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("last_number >= 0", name=op.f("ck_adapters_last_number_not_negative")),
        sa.UniqueConstraint("namespace", "name", name=op.f("uq_adapters_namespace_name")),
    )
    op.create_index(op.f("ix_adapters_name"), "adapters", ["name"])


def _audit_log() -> None:
    _create(
        "audit_log",
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("actor", sa.String(length=256), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
    )
    op.create_index(op.f("ix_audit_log_subject"), "audit_log", ["subject"])


def _bases() -> None:
    _create(
        "bases",
        sa.Column("fingerprint", DIGEST, nullable=True),
        sa.Column("layout", DIGEST, nullable=False),
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
        _digest_check("bases", "layout"),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_bases_fingerprint")),
    )
    op.create_index(op.f("ix_bases_layout"), "bases", ["layout"])


def _blobs() -> None:
    _create(
        "blobs",
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("size", NUMBER, nullable=False),
        sa.Column("state", sa.String(length=16), server_default="live", nullable=False),
        sa.Column("condemned_at", MOMENT, nullable=True),
        sa.Column("verified_at", MOMENT, nullable=True, comment="when its bytes were last re-hashed"),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        _digest_check("blobs", "digest"),
        sa.CheckConstraint("state IN ('live', 'condemned', 'deleting')", name=op.f("ck_blobs_state_known")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_blobs_size_not_negative")),
        key=("digest",),
    )
    op.create_index(op.f("ix_blobs_state"), "blobs", ["state", "condemned_at"])


def _catalog_meta() -> None:
    _create(
        "catalog_meta",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=1024), nullable=False),
        key=("key",),
    )


def _leases() -> None:
    _create(
        "leases",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=256), nullable=True),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        key=("id",),
    )
    op.create_index(op.f("ix_leases_expires_at"), "leases", ["expires_at"])


def _recipes() -> None:
    _create(
        "recipes",
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        _digest_check("recipes", "digest"),
        sa.UniqueConstraint("digest", name=op.f("uq_recipes_digest")),
    )


def _artifacts() -> None:
    _create(
        "artifacts",
        sa.Column("recipe_id", NUMBER, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("size", NUMBER, nullable=False),
        sa.Column("places", sa.Text(), nullable=False, comment="JSON list of known paths"),
        sa.Column("body", sa.Text(), nullable=False, comment="JSON: per-tensor digests and report"),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("removed_at", MOMENT, nullable=True),
        _digest_check("artifacts", "digest"),
        _foreign_key("artifacts", "recipe_id", "recipes"),
    )
    op.create_index(op.f("ix_artifacts_recipe_id"), "artifacts", ["recipe_id"])


def _base_names() -> None:
    _create(
        "base_names",
        sa.Column("name", sa.String(length=1024), nullable=False),
        sa.Column("base_id", NUMBER, nullable=False),
        sa.Column("revision", sa.String(length=256), nullable=True),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        _foreign_key("base_names", "base_id", "bases"),
        sa.UniqueConstraint("name", "base_id", name=op.f("uq_base_names_name_base_id")),
    )
    op.create_index(op.f("ix_base_names_base_id"), "base_names", ["base_id"])


def _base_twins() -> None:
    _create(
        "base_twins",
        sa.Column("base_id", NUMBER, nullable=False),
        sa.Column("twin_id", NUMBER, nullable=False),
        sa.Column("relation", sa.String(length=16), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("relation IN ('quantised', 'cast', 'renamed')", name=op.f("ck_base_twins_relation_known")),
        _foreign_key("base_twins", "base_id", "bases"),
        _foreign_key("base_twins", "twin_id", "bases"),
        key=("base_id", "twin_id"),
    )


def _lease_blobs() -> None:
    _create(
        "lease_blobs",
        sa.Column("lease_id", sa.String(length=32), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        _digest_check("lease_blobs", "digest"),
        _foreign_key("lease_blobs", "lease_id", "leases", ondelete="CASCADE"),
        key=("lease_id", "digest"),
    )
    op.create_index(op.f("ix_lease_blobs_digest"), "lease_blobs", ["digest"])


def _versions() -> None:
    _create(
        "versions",
        sa.Column("adapter_id", NUMBER, nullable=False),
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("digest", DIGEST, nullable=False, comment="sha256 of the manifest, which is a blob itself"),
        sa.Column("record_digest", DIGEST, nullable=True, comment="the small blob the catalog is rebuilt from"),
        sa.Column("tensors_digest", DIGEST, nullable=True, comment="ignores header and file order"),
        sa.Column("newest", sa.Boolean(create_constraint=True, name="newest_bool"), nullable=False),
        sa.Column("peft_type", sa.String(length=64), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=True, comment="largest effective rank"),
        sa.Column("modules", sa.Integer(), nullable=False, comment="number of adapted modules"),
        sa.Column("parameters", NUMBER, nullable=True),
        sa.Column("dtype", sa.String(length=16), nullable=True),
        sa.Column("norm", REAL, nullable=True, comment="Frobenius norm over all delta weights together"),
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
        _digest_check("versions", "digest"),
        sa.CheckConstraint("deleted_at IS NULL OR NOT newest", name=op.f("ck_versions_deleted_is_not_newest")),
        sa.CheckConstraint("number > 0", name=op.f("ck_versions_number_positive")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_versions_size_not_negative")),
        _foreign_key("versions", "adapter_id", "adapters"),
        _foreign_key("versions", "base_id", "bases"),
        _foreign_key("versions", "recipe_id", "recipes"),
        sa.UniqueConstraint("adapter_id", "digest", name=op.f("uq_versions_adapter_id_digest")),
        sa.UniqueConstraint("adapter_id", "number", name=op.f("uq_versions_adapter_id_number")),
    )
    op.create_index(op.f("ix_versions_base_id"), "versions", ["base_id", "rank"])
    op.create_index(op.f("ix_versions_base_name"), "versions", ["base_name", "rank"])
    op.create_index(op.f("ix_versions_created_at"), "versions", ["created_at"])
    op.create_index(op.f("ix_versions_digest"), "versions", ["digest"])
    _index_newest("ix_versions_newest_base_id", ["base_id", "rank"])
    _index_newest("ix_versions_newest_base_name", ["base_name", "rank"])
    _index_newest("ix_versions_newest_id", ["id", "adapter_id", "number", "rank", "size"])
    _index_newest("ix_versions_newest_rank", ["rank"])
    op.create_index(op.f("ix_versions_tensors_digest"), "versions", ["tensors_digest"])
    _index_newest("uq_versions_newest", ["adapter_id"], unique=True)


def _alias_moves() -> None:
    _create(
        "alias_moves",
        sa.Column("adapter_id", NUMBER, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("from_version_id", NUMBER, nullable=True),
        sa.Column("to_version_id", NUMBER, nullable=True),
        sa.Column("actor", sa.String(length=256), nullable=True),
        sa.Column("moved_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint("action IN ('set', 'rm', 'rollback')", name=op.f("ck_alias_moves_action_known")),
        _foreign_key("alias_moves", "adapter_id", "adapters"),
        _foreign_key("alias_moves", "from_version_id", "versions"),
        _foreign_key("alias_moves", "to_version_id", "versions"),
    )
    op.create_index(op.f("ix_alias_moves_adapter_id_name"), "alias_moves", ["adapter_id", "name", "id"])


def _aliases() -> None:
    _create(
        "aliases",
        sa.Column("adapter_id", NUMBER, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("moved_at", MOMENT, nullable=False),
        _foreign_key("aliases", "adapter_id", "adapters"),
        _foreign_key("aliases", "version_id", "versions"),
        key=("adapter_id", "name"),
    )
    op.create_index(op.f("ix_aliases_name"), "aliases", ["name"])
    op.create_index(op.f("ix_aliases_version_id"), "aliases", ["version_id"])


def _check_results() -> None:
    _create(
        "check_results",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("target", sa.String(length=128), nullable=False),
        sa.Column("ruleset", DIGEST, nullable=False, comment="digest or version of the rules that ran"),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("findings", sa.Text(), nullable=False, comment="JSON list"),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "status IN ('pass', 'warn', 'inconclusive', 'fail')", name=op.f("ck_check_results_status_known")
        ),
        _foreign_key("check_results", "version_id", "versions"),
        sa.UniqueConstraint("version_id", "target", "ruleset", name=op.f("uq_check_results_version_id_target_ruleset")),
    )
    op.create_index(op.f("ix_check_results_target_status"), "check_results", ["target", "status", "version_id"])


def _documents() -> None:
    _create(
        "documents",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        _foreign_key("documents", "version_id", "versions"),
        key=("version_id", "kind"),
    )


def _files() -> None:
    _create(
        "files",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False, comment="file, manifest or record"),
        sa.Column("blob_digest", DIGEST, nullable=True, comment="null once gc freed it"),
        sa.Column("sha256", DIGEST, nullable=False, comment="stays when the blob is freed"),
        sa.Column("size", NUMBER, nullable=False),
        _digest_check("files", "sha256"),
        sa.ForeignKeyConstraint(["blob_digest"], ["blobs.digest"], name=op.f("fk_files_blob_digest_blobs")),
        _foreign_key("files", "version_id", "versions"),
        key=("version_id", "path"),
    )
    op.create_index(op.f("ix_files_blob_digest"), "files", ["blob_digest"])


def _lineage() -> None:
    _create(
        "lineage",
        sa.Column("child_id", NUMBER, nullable=False),
        sa.Column("parent_id", NUMBER, nullable=True),
        sa.Column("parent_digest", DIGEST, nullable=False),
        sa.Column("relation", sa.String(length=32), nullable=False),
        sa.Column("weight", REAL, nullable=True),
        sa.Column("position", sa.Integer(), server_default="0", nullable=False),
        _digest_check("lineage", "parent_digest"),
        sa.CheckConstraint(
            "relation IN ('merged_from', 'finetuned_from', 'converted_from')", name=op.f("ck_lineage_relation_known")
        ),
        _foreign_key("lineage", "child_id", "versions"),
        _foreign_key("lineage", "parent_id", "versions"),
        sa.UniqueConstraint(
            "child_id", "relation", "parent_digest", name=op.f("uq_lineage_child_id_relation_parent_digest")
        ),
    )
    op.create_index(op.f("ix_lineage_parent_id"), "lineage", ["parent_id"])


def _metrics() -> None:
    _create(
        "metrics",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("value", REAL, nullable=False),
        _foreign_key("metrics", "version_id", "versions"),
        key=("version_id", "name"),
    )
    op.create_index(op.f("ix_metrics_name_value"), "metrics", ["name", "value", "version_id"])


def _tags() -> None:
    _create(
        "tags",
        sa.Column("version_id", NUMBER, nullable=False),
        sa.Column("key", NAME, nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        _foreign_key("tags", "version_id", "versions"),
        key=("version_id", "key"),
    )
    op.create_index(op.f("ix_tags_key_value"), "tags", ["key", "value", "version_id"])


# Each called like its table; foreign keys point to lines above.
TABLES = (
    *(_adapters, _audit_log, _bases, _blobs, _catalog_meta, _leases, _recipes),
    *(_artifacts, _base_names, _base_twins, _lease_blobs, _versions),
    *(_alias_moves, _aliases, _check_results, _documents, _files, _lineage, _metrics, _tags),
)

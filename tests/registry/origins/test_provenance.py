"""Claims of a version: what a value may be, and who is believed before whom."""

from __future__ import annotations

import itertools
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from registry.api import Registry
from registry.errors import FindingsError, UsageError
from registry.origins.provenance import Claim, claims, first, parse_commit, parse_data, parse_licence, parse_run
from registry.settings import load_settings
from tests.registries import make_adapter, open_registry

if TYPE_CHECKING:
    from pathlib import Path

VALUES = {  # by source, distinct: a claim that is shown names where it came from
    "flag": {"git_commit": "aaaaaaa1", "run_id": "run-flag", "data_digest": "data-flag", "licence": "mit"},
    "sidecar": {"git_commit": "aaaaaaa2", "run_id": "run-side", "data_digest": "data-side", "licence": "isc"},
    "card": {"licence": "zlib"},
    "environment": {"git_commit": "aaaaaaa4", "run_id": "run-env"},
    "toml": {"git_commit": "aaaaaaa5", "run_id": "run-toml", "data_digest": "data-toml", "licence": "ncsa"},
}
SHOWN = {
    "flag": "flag",
    "sidecar": "adapters.provenance.json",
    "card": "README.md",
    "environment": {"git_commit": "GITHUB_SHA", "run_id": "MLFLOW_RUN_ID"},
    "toml": "adapters.toml",
}
PAIRS = [
    (field, above, below)
    for field in VALUES["flag"]
    for above, below in itertools.combinations(VALUES, 2)
    if field in VALUES[above] and field in VALUES[below]
]


def shown(source, field):
    name = SHOWN[source]
    return name if isinstance(name, str) else name[field]


@pytest.fixture
def home(tmp_path, sqlite_template):
    """A folder whose registry has its schema: migrating each time takes longer than all else here."""
    (tmp_path / "home").mkdir()
    shutil.copyfile(sqlite_template, tmp_path / "home/catalog.db")
    return tmp_path


def settings_of(tmp_path: Path, *, toml: dict[str, str], environ: dict[str, str]):
    """Settings as a person gets them in a folder with an adapters.toml."""
    place = tmp_path / "project"
    place.mkdir(exist_ok=True)
    lines = [f'{field} = "{value}"' for field, value in toml.items()]
    (place / "adapters.toml").write_text("[provenance]\n" + "\n".join(lines))
    return load_settings(
        home=tmp_path / "home",
        environ={"ADAPTERS_ACTOR": "ann", "XDG_CONFIG_HOME": str(tmp_path), **environ},
        folder=place,
    )


def push_with(tmp_path, field, sources):
    """What `show` tells of a field after a push in which each of the sources spoke of it."""
    say = {source: {field: VALUES[source][field]} if source in sources else {} for source in VALUES}
    folder = make_adapter(tmp_path / "one")
    (folder / "adapters.provenance.json").write_text(json.dumps(say["sidecar"]))
    if say["card"]:
        (folder / "README.md").write_text(f"---\nlicense: {say['card']['licence']}\n---\n")
    environ = {shown("environment", name): value for name, value in say["environment"].items()}
    registry = Registry(settings_of(tmp_path, toml=say["toml"], environ=environ))
    try:
        found = registry.show(registry.push(folder, "team/sql", **say["flag"]).ref)
    finally:
        registry.close()
    return getattr(found, field), (found.sources or {}).get(field)


@pytest.mark.parametrize(("field", "above", "below"), PAIRS)
def test_of_two_sources_the_upper_is_believed(home, field, above, below):
    assert push_with(home, field, {above, below}) == (VALUES[above][field], shown(above, field))


@pytest.mark.parametrize(("field", "source"), [(field, source) for source in VALUES for field in VALUES[source]])
def test_each_source_alone_is_believed(home, field, source):
    assert push_with(home, field, {source}) == (VALUES[source][field], shown(source, field))


def test_every_pair_that_can_speak_of_one_field_is_asked():
    """Four sources of a licence, of a commit and of a run; three of the data."""
    assert len(PAIRS) == 6 + 6 + 6 + 3


def test_layers_are_joined_field_by_field():
    one = {"licence": Claim("mit", "a")}
    two = {"licence": Claim("isc", "b"), "run_id": Claim("r", "b")}

    assert first(one, two) == {"licence": Claim("mit", "a"), "run_id": Claim("r", "b")}
    assert first(two, one) == two
    assert first() == {}


class TestMerges:
    @pytest.fixture
    def merged(self, home):
        """A merge of two adapters in a project and a pipeline that speak of everything."""

        def merge(licences, **flags):
            settings = settings_of(
                home, toml=VALUES["toml"], environ={"GITHUB_SHA": "aaaaaaa4", "MLFLOW_RUN_ID": "run-env"}
            )
            registry = Registry(settings)
            try:
                for seed, licence in enumerate(licences):
                    registry.push(make_adapter(home / str(seed), seed), f"team/p{seed}", licence=licence)
                refs = [f"team/p{seed}" for seed in range(len(licences))]
                result = registry.merge(refs, combination="cat", into="team/ab", **flags)
                return registry.show(result.ref), result
            finally:
                registry.close()

        return merge

    def test_the_parents_licence_counts_before_the_projects(self, merged):
        found, _ = merged(("mit", "mit"))

        assert (found.licence, found.sources["licence"]) == ("mit", "parents")

    def test_a_flag_counts_before_the_parents(self, merged):
        found, _ = merged(("mit", "mit"), licence="apache-2.0")

        assert (found.licence, found.sources["licence"]) == ("apache-2.0", "flag")

    def test_where_parents_agree_on_nothing_the_project_does_not_decide(self, merged):
        found, result = merged(("mit", "isc"))

        assert (found.licence, "licence" in found.sources) == (None, False)
        assert "licence-several" in {finding.rule for finding in result.findings}

    def test_the_run_is_the_merges_and_the_projects_data_are_not(self, merged):
        found, _ = merged(("mit", "mit"))

        assert (found.git_commit, found.run_id, found.data_digest) == ("aaaaaaa4", "run-env", None)
        assert found.sources["run_id"] == "MLFLOW_RUN_ID"


class TestRulesOverParents:
    """Through a whole registry, on both databases: what is refused, what is told, what is kept."""

    def merge(self, registry, tmp_path, licences, **flags):
        for seed, licence in enumerate(licences):
            registry.push(make_adapter(tmp_path / str(seed), seed), f"team/p{seed}", licence=licence)
        refs = [f"team/p{seed}" for seed in range(len(licences))]
        return registry.merge(refs, combination="cat", into="team/ab", **flags)

    @pytest.mark.parametrize(
        ("licences", "told", "kept"),
        [
            (("mit", "gemma"), ("licence-inherited", "warning"), "gemma"),
            (("llama3.1", "gemma"), ("licence-several", "warning"), None),
            (("mit", "acme-1"), ("licence-unfamiliar", "warning"), None),
            (("mit", None), ("licence-unnamed", "info"), None),
        ],
    )
    def test_what_is_told_and_kept(self, registry, tmp_path, licences, told, kept):
        result = self.merge(registry, tmp_path, licences)
        said = [(one.rule, one.severity) for one in result.findings if one.rule.startswith("licence-")]

        # A result without a licence is itself told of, by the rule over one adapter.
        assert [one for one in said if one[0] != "licence-missing"] == [told]
        assert registry.show("team/ab").licence == kept

    @pytest.mark.parametrize(
        ("licences", "rule"),
        [
            (("gpl-3.0", "gemma"), "licence-conflict"),
            (("cc-by-nd-4.0", "cc-by-nd-4.0"), "licence-no-derivatives"),
        ],
    )
    def test_what_is_refused_until_it_is_allowed_by_name(self, registry, tmp_path, licences, rule):
        with pytest.raises(FindingsError, match=rule) as refused:
            self.merge(registry, tmp_path, licences)
        assert refused.value.exit_code == 1
        assert [row.name for row in registry.list()] == ["team/p0", "team/p1"]
        assert self.merge(registry, tmp_path, licences, allow=[rule]).ref == "team/ab@1"

    def test_allowing_one_rule_allows_no_other(self, registry, tmp_path):
        with pytest.raises(FindingsError, match="licence-conflict"):
            self.merge(registry, tmp_path, ("gpl-3.0", "gemma"), allow=["licence-no-derivatives"])


class TestValues:
    @pytest.mark.parametrize(
        ("text", "value"), [("8C0F1D2", "8c0f1d2"), (" deadbeef\n", "deadbeef"), ("a" * 64, "a" * 64)]
    )
    def test_commits(self, text, value):
        assert parse_commit(text) == value

    @pytest.mark.parametrize(
        "text", ["", "abcdef", "a" * 65, "g" * 7, "HEAD", "\uff41" * 7, "\u0661" * 7, "a b c d e f 1"]
    )
    def test_what_is_no_commit(self, text):
        with pytest.raises(UsageError, match="expected 7 to 64 hexadecimal digits"):
            parse_commit(text)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("MIT", "mit"),
            (" Apache-2.0 ", "apache-2.0"),
            ("openrail++", "openrail++"),
            ("MIT AND Apache-2.0", "mit and apache-2.0"),
            ("(MIT OR GPL-2.0+)", None),
            ("GPL-2.0 WITH Classpath-exception-2.0", "gpl-2.0 with classpath-exception-2.0"),
            ("0bsd", "0bsd"),
            ("x" * 256, "x" * 256),
        ],
    )
    def test_licences(self, text, value):
        if value is None:
            with pytest.raises(UsageError, match="expected an identifier"):
                parse_licence(text)
        else:
            assert parse_licence(text) == value

    @pytest.mark.parametrize(
        "text", ["", " ", "none", "None", "-mit", "mit-", "mit;", "m\x00it", "lizenz\u00e4", "x" * 257]
    )
    def test_what_is_no_licence(self, text):
        with pytest.raises(UsageError, match=r"expected an identifier such as apache-2\.0"):
            parse_licence(text)

    @pytest.mark.parametrize("parse", [parse_run, parse_data])
    def test_a_word_is_kept_as_it_is(self, parse):
        for text in ("r", "Run-7/\u00e4", "sha256:" + "ab" * 32, "x" * 256):
            assert parse(text) == text

    @pytest.mark.parametrize("parse", [parse_run, parse_data])
    @pytest.mark.parametrize("text", ["", " ", "a b", "a\tb", "a\u00a0b", "a\x7f", "a\u202e", "x" * 257])
    def test_what_is_no_word(self, parse, text):
        with pytest.raises(UsageError, match="expected 1 to 256 printable characters without spaces"):
            parse(text)

    def test_a_wrong_value_is_named_with_its_source_but_a_flags_is_known(self):
        with pytest.raises(UsageError, match=r"^adapters\.toml: git commit 'x'"):
            claims({"git_commit": "x"}, "adapters.toml")
        with pytest.raises(UsageError, match=r"^git commit 'x'"):
            claims({"git_commit": "x"}, "flag")

    def test_a_long_wrong_value_is_cut(self):
        with pytest.raises(UsageError) as caught:
            claims({"run_id": "x y" * 10_000}, "flag")
        assert len(str(caught.value)) < 300


class TestKnownContent:
    """The same files again: what is there stays, a gap is filled by a flag and by nothing else."""

    @pytest.fixture
    def folder(self, tmp_path):
        return make_adapter(tmp_path / "one")

    def test_gaps_are_filled_and_their_sources_named(self, registry, folder):
        registry.push(folder, "team/sql", run_id="r-1")
        again = registry.push(folder, "team/sql", licence="mit", data_digest="d-1", git_commit="deadbeef")
        found = registry.show("team/sql")

        assert (again.created, again.ref) == (False, "team/sql@1")
        assert (found.licence, found.data_digest, found.git_commit, found.run_id) == ("mit", "d-1", "deadbeef", "r-1")
        assert {found.sources[name] for name in ("licence", "data_digest", "git_commit", "run_id")} == {"flag"}
        assert not any("not applied" in note for note in again.notes)

    @pytest.mark.parametrize(
        ("field", "old", "new"),
        [
            ("git_commit", "deadbeef", "cafebabe"),
            ("run_id", "r-1", "r-2"),
            ("data_digest", "d-1", "d-2"),
            ("licence", "mit", "gemma"),
            ("message", "one", "two"),
            ("base", "b/one", "b/two"),
        ],
    )
    def test_what_was_said_in_vain_is_told_each_by_name(self, registry, folder, field, old, new):
        registry.push(folder, "team/sql", **{field: old})
        again = registry.push(folder, "team/sql", **{field: new})

        assert f"not applied: {field}; team/sql@1 keeps what it was first pushed with" in again.notes
        assert getattr(registry.show("team/sql"), field) == old

    def test_what_the_folder_says_again_fills_nothing_and_is_no_loss(self, registry, folder):
        registry.push(folder, "team/sql")
        (folder / "adapters.provenance.json").write_text('{"run_id": "r-2", "licence": "mit"}')
        again = registry.push(folder, "team/sql")

        assert (registry.show("team/sql").run_id, registry.show("team/sql").licence) == (None, None)
        assert not any("not applied" in note for note in again.notes)

    def test_another_name_of_the_same_content_has_its_own_provenance(self, registry, folder):
        registry.push(folder, "team/sql", licence="mit")
        registry.push(folder, "team/copy", licence="gemma")

        assert [registry.show(name).licence for name in ("team/sql", "team/copy")] == ["mit", "gemma"]


class TestAsking:
    """`list` by provenance, through the same Python that the command line uses, on both databases."""

    @pytest.fixture
    def three(self, prepared):
        return prepared(self.push_three)

    @staticmethod
    def push_three(registry, tmp_path):
        told = [
            {"licence": "mit", "git_commit": "8c0f1d2e", "run_id": "r%1"},
            {"licence": "gemma", "git_commit": "8c0fffff", "run_id": "r_1", "data_digest": "d%"},
            {"git_commit": "8c10aaaa", "run_id": "rx1", "data_digest": "dx"},
        ]
        for seed, fields in enumerate(told):
            registry.push(make_adapter(tmp_path / str(seed), seed), f"team/p{seed}", **fields)

    def names(self, registry, **filters):
        return [row.name.removeprefix("team/p") for row in registry.list(**filters)]

    def test_a_commits_beginning_is_no_pattern(self, three):
        assert self.names(three, git_commit="8c0f") == ["0", "1"]
        assert self.names(three, git_commit="8c10") == ["2"]
        assert self.names(three, git_commit="0f1d") == []
        for text in ("8c__", "8c0%", "%%%%", "8c0f*", "8c0f'--"):
            with pytest.raises(UsageError, match="expected its first 4 to 64 hexadecimal digits"):
                self.names(three, git_commit=text)

    def test_a_commit_ends_with_f_as_well(self, three):
        """The next prefix in byte order is above every digit, f included."""
        assert self.names(three, git_commit="8c0ffff") == self.names(three, git_commit="8c0fffff") == ["1"]
        assert self.names(three, git_commit="8c0fffff0") == []

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"run_id": "r%1"}, ["0"]),
            ({"run_id": "r_1"}, ["1"]),
            ({"run_id": "R_1"}, []),
            ({"data_digest": "d%"}, ["1"]),
            ({"data_digest": "d"}, []),
            ({"pushed_by": "tester"}, ["0", "1", "2"]),
            ({"pushed_by": "%"}, []),
            ({"pushed_by": "Tester"}, []),
        ],
        ids=str,
    )
    def test_other_texts_are_equal_or_not(self, three, filters, found):
        assert self.names(three, **filters) == found

    def test_no_licence_can_be_asked_for_and_is_no_licence(self, three, tmp_path):
        assert self.names(three, licence="none") == self.names(three, licence=" NONE ") == ["2"]
        with pytest.raises(UsageError):
            three.push(make_adapter(tmp_path / "x", 9), "team/x", licence="none")


def test_who_pushed_is_kept_from_python_too(home):
    registry = open_registry(home / "home")
    registry.push(make_adapter(home / "one"), "team/sql")

    assert registry.show("team/sql").pushed_by == "tester"
    registry.close()

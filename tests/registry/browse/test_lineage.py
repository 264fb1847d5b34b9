from __future__ import annotations

from typing import TYPE_CHECKING

from engine.format.facts import BaseFacts
from registry.basemodels import bases
from registry.browse.lineage import lineage, neighbours
from registry.models import BaseTwin, LineageEdge
from registry.records.draft import Parent
from registry.results import Edge, Node
from registry.values.refs import parse_ref
from registry.versions.removal import remove
from tests.factories import digest, publish

if TYPE_CHECKING:
    from registry.catalog.database import Database


def push(database: Database, name: str, *parents: int, relation: str = "finetuned_from", **fields) -> int:
    """A version whose content is its name, with parents by row id."""
    found = tuple(Parent(digest(f"parent {one}"), relation, version_id=one) for one in parents)
    return publish(database, f"t/{name}", name, parents=found, **{"base_name": None, **fields}).version_id


def graph(database: Database, version_id: int, **directions: bool):
    with database.reading() as session:
        return lineage(session, version_id, **directions)


def ids(found) -> list[str]:
    return [node.id for node in found.nodes]


def test_a_version_alone_is_one_node(database):
    a = push(database, "a")

    assert graph(database, a).nodes == (Node("t/a@1", "version", digest("manifest a")),)
    assert graph(database, a).edges == ()


def test_up_follows_all_ancestors_and_down_all_descendants(database):
    a = push(database, "a")
    b = push(database, "b")
    c = push(database, "c", a, b, relation="merged_from")
    d = push(database, "d", c)
    push(database, "sibling", a)

    assert ids(graph(database, c)) == ["t/a@1", "t/b@1", "t/c@1", "t/d@1"]
    assert ids(graph(database, c, up=False)) == ["t/c@1", "t/d@1"]
    assert graph(database, d, down=False).edges == (
        Edge("t/c@1", "t/a@1", "merged_from"),
        Edge("t/c@1", "t/b@1", "merged_from"),
        Edge("t/d@1", "t/c@1", "finetuned_from"),
    )
    assert ids(graph(database, a, up=False)) == ["t/a@1", "t/c@1", "t/d@1", "t/sibling@1"]


def test_weights_are_on_the_edges_in_the_order_of_the_parents(database):
    a, b = push(database, "a"), push(database, "b")
    parents = (Parent(digest("y"), "merged_from", 0.7, b), Parent(digest("x"), "merged_from", -0.3, a))
    c = publish(database, "t/c", "c", parents=parents, base_name=None).version_id

    assert [(edge.parent, edge.weight) for edge in graph(database, c).edges] == [("t/b@1", 0.7), ("t/a@1", -0.3)]


def test_a_parent_of_another_registry_is_known_by_its_digest(database):
    a = publish(database, "t/a", "a", parents=(Parent(digest("far"), "finetuned_from"),), base_name=None).version_id

    assert graph(database, a).nodes[1] == Node(digest("far"), "unknown", digest("far"))
    assert graph(database, a).edges == (Edge("t/a@1", digest("far"), "finetuned_from"),)


def test_a_deleted_ancestor_stays_and_says_so(database):
    a = push(database, "a")
    b = push(database, "b", a)
    database.write(lambda session: remove(session, parse_ref("t/a@1"), actor=None))

    assert [(node.id, node.deleted) for node in graph(database, b).nodes] == [("t/a@1", True), ("t/b@1", False)]


def test_a_cycle_ends(database):
    """Pushes cannot make one, a restored or edited catalog can."""
    a = push(database, "a")
    b = push(database, "b", a)

    def close(session):
        session.add(LineageEdge(child_id=a, parent_id=b, parent_digest=digest("b"), relation="converted_from"))

    database.write(close)

    found = graph(database, a)
    assert ids(found) == ["t/a@1", "t/b@1"]
    assert sorted((edge.child, edge.parent) for edge in found.edges) == [("t/a@1", "t/b@1"), ("t/b@1", "t/a@1")]


def test_forty_levels_of_diamonds_do_not_multiply(database):
    """2**40 paths lead to the root; each version is visited once."""
    left = right = push(database, "root")
    for level in range(40):
        left, right = push(database, f"l{level}", left, right), push(database, f"r{level}", left, right)

    assert len(graph(database, left, down=False).nodes) == 1 + 2 * 39 + 1


def test_bases_of_the_version_and_its_ancestors_are_nodes(database):
    facts = BaseFacts(layout=digest("layout"), parameters={}, fingerprint=digest("llama"))
    database.write(lambda session: bases.add(session, facts, ["org/llama", "llama"]))
    a = push(database, "a", base_id=1, base_name="llama")
    b = push(database, "b", a, base_name="gpt2")
    push(database, "c", b, base_name="other")

    found = graph(database, b)
    assert [node for node in found.nodes if node.kind == "base"] == [
        Node("org/llama", "base", digest("llama")),
        Node("gpt2", "base"),
    ]
    assert [edge for edge in found.edges if edge.relation == "base"] == [
        Edge("t/a@1", "org/llama", "base"),
        Edge("t/b@1", "gpt2", "base"),
    ]
    assert [node.kind for node in graph(database, b, up=False).nodes] == ["version", "version"]


def test_a_twin_of_a_base_is_one_edge_further(database):
    for name in ("llama", "llama-4bit"):
        facts = BaseFacts(layout=digest("layout"), parameters={}, fingerprint=digest(name))
        database.write(lambda session, facts=facts, name=name: bases.add(session, facts, [name]))
    database.write(lambda session: session.add(BaseTwin(base_id=2, twin_id=1, relation="quantised")))
    a = push(database, "a", base_id=2, base_name="llama-4bit")

    found = graph(database, a)
    assert found.edges == (Edge("t/a@1", "llama-4bit", "base"), Edge("llama-4bit", "llama", "quantised"))
    assert ids(found) == ["t/a@1", "llama", "llama-4bit"]


def test_neighbours_are_one_step_away(database):
    a = push(database, "a", base_name="far")
    b = push(database, "b", a)
    c = push(database, "c", b, base_name="gpt2")
    d = push(database, "d", c)
    push(database, "e", d)

    with database.reading() as session:
        found = neighbours(session, c)
    assert ids(found) == ["t/b@1", "t/c@1", "t/d@1", "gpt2"]
    assert len(found.edges) == 3

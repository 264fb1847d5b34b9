"""The picture of a report: what is drawn where, which files it makes, and what it refuses."""

from xml.etree import ElementTree as ET

import pytest

from engine.errors import MissingExtraError
from registry.cli.failure import run
from registry.errors import ConflictError, UsageError
from registry.merges import plot
from tests.registries import make_adapter

PNG = b"\x89PNG\r\n\x1a\n"
SVG = "{http://www.w3.org/2000/svg}"


def report(parents=2, layers=3, *, kinds=("q_proj", "v_proj")):
    def module(name, value):
        own = [{"cosine": value / (1 + place), "retention": None, "share": 1 / parents} for place in range(parents)]
        return {"name": name, "energy_kept": value, "relative_error": 1 - value, "parents": own}

    names = [f"model.layers.{layer}.attn.{kind}" for layer in range(layers) for kind in kinds]
    return {
        "method": "svd",
        "rank": 8,
        "parents": [{"ref": f"team/parent{place}@1"} for place in range(parents)],
        "per_module": [module(name, 0.5 + index / 100) for index, name in enumerate(names)],
    }


def test_layers_come_in_natural_order():
    names = ["m.layers.10.q", "m.layers.2.v", "m.layers.2.q", "head", "m.layers.1.q"]

    assert plot.layers(names) == [
        ("head", ["head"]),
        ("m.layers.1", ["m.layers.1.q"]),
        ("m.layers.2", ["m.layers.2.q", "m.layers.2.v"]),
        ("m.layers.10", ["m.layers.10.q"]),
    ]


def test_numbers_and_words_in_one_place_can_be_ordered():
    assert [layer for layer, _ in plot.layers(["b.x", "b.1", "b.1x", "b.", "2.b", "²"])] == [
        "2",
        "b.",
        "b.1",
        "b.1x",
        "b.x",
        "²",
    ]


def test_one_panel_a_measure_and_one_series_a_parent():
    figure = plot._figure(report(parents=3))

    assert [axes.get_ylabel() for axes in figure.axes] == [
        "energy kept",
        "relative error",
        "cosine with the parent",
        "retention",
        "share",
    ]
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 3, 3, 3]
    assert [list(dot) for dot in figure.axes[0].collections[0].get_offsets()] == [
        [index, 0.5 + index / 100] for index in range(6)
    ]
    assert list(figure.axes[0].lines[0].get_xdata()) == [0.5, 2.5, 4.5]
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([0.505, 0.525, 0.545])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"team/parent{n}@1" for n in range(3)]
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["layers.0", "layers.1", "layers.2"]


def test_as_many_labels_as_fit():
    """80 layers: every fourth is named."""
    labels = [tick.get_text() for tick in plot._figure(report(layers=80)).axes[-1].get_xticklabels()]

    assert labels == [f"layers.{number}" for number in range(0, 80, 4)]


@pytest.mark.parametrize("parents", [2, 8])
def test_eight_parents_have_eight_colours(parents):
    axes = plot._figure(report(parents)).axes[2]

    assert len({line.get_color() for line in axes.lines}) == parents


@pytest.mark.parametrize("name", ["report.png", "report.PNG"])
def test_png(tmp_path, name):
    plot.draw(report(), tmp_path / name)

    assert (tmp_path / name).read_bytes().startswith(PNG)


def test_equal_reports_are_equal_svg_files_without_a_date(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot.draw(report(), tmp_path / name)

    one, other = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert one == other
    assert b"<dc:date>" not in one
    assert ET.fromstring(one).tag == f"{SVG}svg"


def test_a_name_is_no_formula(tmp_path):
    """Between dollar signs matplotlib would read TeX, and fail on this one."""
    plot.draw(report() | {"method": r"$\frac$"}, tmp_path / "r.svg")

    assert (tmp_path / "r.svg").exists()


@pytest.mark.parametrize("name", ["report", "report.pdf", ".png", "report.png.txt"])
def test_only_pictures_by_name(tmp_path, name):
    with pytest.raises(UsageError, match=r"drawn as \.png or \.svg"):
        plot.check_plot(tmp_path / name)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "r.svg").write_text("mine")

    with pytest.raises(ConflictError, match="exists already"):
        plot.draw(report(), tmp_path / "r.svg")

    assert (tmp_path / "r.svg").read_text() == "mine"


def test_a_dangling_link_is_something_too(tmp_path):
    (tmp_path / "r.svg").symlink_to(tmp_path / "nowhere")

    with pytest.raises(ConflictError):
        plot.check_plot(tmp_path / "r.svg")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match=r"pip install 'adapter-registry\[plot\]'"):
        plot.check_plot(tmp_path / "r.svg")


@pytest.fixture
def parents(registry, tmp_path):
    for seed, name in enumerate("ab", 1):
        registry.push(make_adapter(tmp_path / name, seed), f"team/{name}")
    return registry


def merge(opened, *options):
    return run(["merge", "team/a", "team/b", "--into", "team/ab", *options], opener=lambda settings: opened)


def test_a_merge_draws_its_report_in_a_dry_run_too(parents, tmp_path, capfd):
    code = merge(parents, "--dry-run", "--report-plot", str(tmp_path / "r.svg"))

    assert (code, parents.list(all_versions=True, name="team/ab")) == (0, [])
    assert ET.fromstring((tmp_path / "r.svg").read_bytes()).tag == f"{SVG}svg"


@pytest.mark.parametrize(("name", "code"), [("taken.svg", 5), ("r.pdf", 2)])
def test_a_picture_that_cannot_be_drawn_stops_the_merge_before_it_begins(parents, tmp_path, capfd, name, code):
    (tmp_path / "taken.svg").write_text("mine")

    assert merge(parents, "--report-plot", str(tmp_path / name)) == code

    assert parents.list(all_versions=True, name="team/ab") == []


def test_a_grid_has_several_reports_and_no_picture(parents, tmp_path, capfd):
    code = merge(parents, "--weights-grid", "1,0;0,1", "--report-plot", str(tmp_path / "r.svg"))

    assert (code, (tmp_path / "r.svg").exists()) == (2, False)
    assert "--weights-grid makes several" in capfd.readouterr().err

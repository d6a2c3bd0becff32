"""`probgen compare`: the same measures for every family, and nothing ranked that cannot be."""

import json
import re
from html.parser import HTMLParser

import pytest
from compared_runs import FAMILIES, SMALL, compared, record_of, rows_of, run_of
from helpers import copy_of, ok, picture

from probgen.commands.common import open_run
from probgen.commands.quality import draw
from probgen.data import load_data
from probgen.inference.randomness import own_randomness
from probgen.measures import judge_samples
from probgen.measures.manifold import share_error
from probgen.tables_compare import BEST, best_of, collapsed, ranked, show_measure
from probgen.tables_samples import measured

# --- numbers


@pytest.mark.parametrize("name", ["gaussian", "vae", "pixelcnn", "gan"])
def test_the_numbers_are_those_of_evaluate(name):
    row = rows_of(*FAMILIES)[name]
    found = ok("evaluate", run_of(name), *(SMALL[4:] if name == "gan" else SMALL), "--json").json
    assert row["estimates"] == found["estimates"]
    assert (row["bits_per_dim"] or {"value": None})["value"] == found["bits_per_dim"]
    for measure in ("frechet_distance", "kernel_distance", "precision", "recall", "c2st"):
        assert row["measures"][measure] == found["samples"][measure], measure


def test_the_samples_measures_are_those_of_the_same_samples():
    opened = open_run(run_of("vae"), None, "cpu")
    with own_randomness(0):
        drawn = draw(opened, 60, quiet=True)
    judgement = judge_samples(drawn.samples, load_data("digits"), seed=0)
    row = rows_of(*FAMILIES)["vae"]
    assert row["num_samples"] == judgement.num_samples == 60
    assert {name: number["value"] for name, number in row["measures"].items()} == {
        measure.name: measure.value for measure in judgement.measures
    }


def test_every_family_says_what_its_number_is():
    rows = rows_of(*FAMILIES)
    assert {name: row["kind"] for name, row in rows.items()} == {
        "gaussian": "tractable density",
        "vae": "latent-variable density",
        "pixelcnn": "tractable density",
        "autoencoder": "no density",
        "gan": "implicit",
    }
    assert rows["gaussian"]["log_prob"]["what"] == "exact, density of dequantized grey levels"
    assert rows["pixelcnn"]["log_prob"]["what"] == "exact"
    assert rows["vae"]["log_prob"]["what"] == "lower bound, IWAE with 5 particles"
    assert rows["vae"]["log_prob"]["value"] == max(e["value"] for e in rows["vae"]["estimates"].values())
    for name in ("autoencoder", "gan"):
        assert rows[name]["log_prob"] is rows[name]["bits_per_dim"] is None
        assert rows[name]["notes"][0].startswith("no log p(x): ")
    assert rows["autoencoder"]["measures"] == {}
    assert rows["autoencoder"]["picture"] is None
    assert any("no samples" in note for note in rows["autoencoder"]["notes"])


def test_every_number_in_the_record_has_a_protocol():
    record = record_of(*FAMILIES)
    for row in (*record["runs"], record["reference"]):
        numbers = [row.get(key) for key in ("log_prob", "bits_per_dim", "probe", "samples_per_second", "training")]
        for number in filter(None, [*numbers, row.get("parameters"), *row["measures"].values()]):
            assert number["protocol"], number


def test_the_table_holds_these_numbers():
    out, result = compared(*FAMILIES)
    lines = result.stdout.splitlines()
    assert (out / "table.txt").read_text() == result.stdout
    for name, row in rows_of(*FAMILIES).items():
        mine = " ".join(line for line in lines if line.startswith(f"{name} "))
        numbers = [number for number in (row["log_prob"], row["bits_per_dim"], *row["measures"].values()) if number]
        for number in numbers:
            assert measured(number["value"], number["stderr"]).replace("-", "−") in mine
    assert re.search(r"^vae .*≥ .*lower bound.*≤ ", result.stdout, re.MULTILINE)
    assert "judging vae (2 of 5)" in result.stderr


def test_the_players_are_counted_apart():
    counts = rows_of(*FAMILIES)["gan"]["parameters"]
    assert counts["value"] == counts["generator"] + counts["discriminator"]
    assert f"(G {counts['generator']:,} + D {counts['discriminator']:,})" in compared(*FAMILIES)[1].stdout
    assert "generator" not in rows_of(*FAMILIES)["vae"]["parameters"]


def test_labels_are_read_off_what_each_model_makes_of_an_image():
    rows, real = rows_of(*FAMILIES), record_of(*FAMILIES)["reference"]
    sizes = {name: row["probe"] and row["probe"]["num_features"] for name, row in rows.items()}
    assert sizes == {"gaussian": None, "vae": 3, "pixelcnn": None, "autoencoder": 3, "gan": sizes["gan"]}
    assert sizes["gan"] > 3
    assert (real["probe"]["num_features"], real["probe"]["num_train"], real["probe"]["num_test"]) == (64, 1257, 360)
    assert real["probe"]["value"] > 0.9 > rows["vae"]["probe"]["value"] > real["probe"]["chance"]


def test_real_images_are_nearer_to_real_images_than_an_untrained_model():
    record = record_of(*FAMILIES)
    real = record["reference"]["measures"]["frechet_distance"]["value"]
    for name, row in rows_of(*FAMILIES).items():
        if name in ("vae", "pixelcnn", "gan"):
            assert real < row["measures"]["frechet_distance"]["value"] / 2


def test_points_have_modes_and_no_bits():
    names = ("ring-gaussian", "ring-vae", "ring-gan")
    record, table = record_of(*names), compared(*names)[1].stdout
    assert record["reference"]["measures"]["modes"]["value"] == 8
    assert "nats per point" in table
    assert "modes covered" in table
    assert "bits/dim" not in table
    for name in ("ring-gaussian", "ring-gan", "training-data"):
        picture(compared(*names)[0] / f"samples-{name}.png")


def test_the_same_seed_gives_the_same_comparison(tmp_path):
    names = ("ring-vae", "ring-gan")
    ok("compare", *map(run_of, names), "--out", tmp_path / "again", *SMALL)
    ok("compare", *map(run_of, names), "--out", tmp_path / "other", *SMALL, "--seed", 1)
    first, again, other = (timeless(place) for place in (compared(*names)[0], tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert first != other
    assert (tmp_path / "again" / "samples-training-data.png").read_bytes() == (
        compared(*names)[0] / "samples-training-data.png"
    ).read_bytes()


def timeless(place):
    record = json.loads((place / "comparison.json").read_text())
    del record["date"]
    for row in record["runs"]:
        del row["samples_per_second"]
    return record


def test_every_run_draws_as_many(monkeypatch, tmp_path):
    """Fewer samples have a larger Fréchet distance: by default the slowest sampler decides for all."""
    import probgen.commands.compare as commands

    monkeypatch.setattr(commands, "PIXEL_SAMPLES", 70)
    result = ok("compare", run_of("gaussian"), run_of("pixelcnn"), "--out", tmp_path / "c", "--num", 5, "--json")
    assert [row["num_samples"] for row in (*result.json["runs"], result.json["reference"])] == [70, 70, 70]
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == f"wrote {tmp_path / 'c' / 'index.html'}\n"


# --- what is ranked


def number(value, what="exact", stderr=0.1, better="higher", protocol="p"):
    return {"value": value, "stderr": stderr, "better": better, "protocol": protocol, "what": what}


@pytest.mark.parametrize(
    ("numbers", "best"),
    [
        ([number(-3.0), number(-1.0), None], {1}),
        ([number(-1.2), number(-1.0), number(-3.0)], {0, 1}),  # within two standard errors
        ([number(-1.2), number(-1.0)], set()),  # no run stands out
        ([number(-3.0), number(-1.0, "lower bound, ELBO")], set()),
        ([number(-3.0, "lower bound, ELBO"), number(-1.0, "lower bound, ELBO")], set()),
        ([number(-3.0), number(-1.0, "exact, density of dequantized grey levels")], set()),
        ([number(-3.0), None], set()),
        ([None, None], set()),
        ([number(5.0, better="lower"), number(4.0, better="lower")], {1}),
        ([number(0.1, better="0.5", stderr=0.01), number(0.8, better="0.5", stderr=0.02)], {1}),
        ([number(2.0, stderr=None, better="lower"), number(2.1, stderr=None, better="lower")], {0}),
        ([number(8.0, stderr=None), number(8.0, stderr=None), number(7.0, stderr=None)], {0, 1}),
        ([number(0.0, stderr=0.0), number(0.0, stderr=0.0)], set()),
        ([number(2.0, protocol="60 samples"), number(1.0, protocol="70 samples")], set()),
        ([number(2.0, protocol="kNN, p = 1e-3; of 60"), number(1.0, protocol="kNN, p = 0.2; of 60")], {0}),
        ([number(2.0, better=None), number(1.0, better=None)], set()),
    ],
)
def test_only_what_was_measured_alike_is_ranked(numbers, best):
    assert best_of("log_prob", numbers) == best


def share(value, count=1000):
    return number(value, stderr=share_error(value, count))


def test_a_share_of_one_is_not_certain():
    """999 of 1,000 cannot be told from all of them, 950 can."""
    assert best_of("recall", [share(1.0), share(0.999), share(0.5)]) == {0, 1}
    assert best_of("recall", [share(1.0), share(0.95), share(0.5)]) == {0}
    assert best_of("recall", [share(0.0), share(0.001), share(0.5)]) == {2}


def test_a_collapsed_run_wins_no_star_for_its_precision():
    rows = [
        {"precision": share(precision), "measures": {"recall": share(recall)}}
        for precision, recall in ((1.0, 0.002), (0.6, 0.3), (0.8, 0.4), (0.5, 0.5))
    ]
    assert collapsed(rows) == {0}
    column = ranked("", "precision", rows, "precision", show_measure, collapsed(rows))
    assert [cell.best for cell in column.cells] == [False, False, True, False]
    assert ranked("", "precision", rows, "precision", show_measure).cells[0].best
    assert collapsed([{"measures": {}}]) == frozenset()
    assert "collapse" in BEST


def test_few_samples_are_said_to_be_rough():
    record = record_of(*FAMILIES)
    for row in (*record["runs"], record["reference"]):
        assert any("are rough" in note for note in row["notes"]) == bool(row["measures"])
    assert "fewer than 500 samples" in compared(*FAMILIES)[1].stdout


def test_a_bound_is_not_ranked_in_the_table():
    for line in compared(*FAMILIES)[1].stdout.splitlines():
        if "nats" not in line and ("lower bound, IWAE" in line or "exact" in line) and line.startswith(FAMILIES):
            assert "*" not in line


# --- the page


class Balanced(HTMLParser):
    """Every tag closed in its order, no reference to anything outside."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.targets, self.ids = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for key, value in attributes if key == "id"]
        self.targets += [value for key, value in attributes if key in ("href", "src", "srcset", "action", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page):
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_needs_nothing_beside_it():
    page = (compared(*FAMILIES)[0] / "index.html").read_text()
    parser = parsed(page)
    links = [target for target in parser.targets if target.startswith("#")]
    assert links
    assert all(link[1:] in parser.ids for link in links)
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in parser.targets)
    assert parser.tags.count("img") == 5  # four models draw, and real images
    assert not {"script", "link", "iframe"} & set(parser.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_a_page_of_unbalanced_tags_is_found():
    with pytest.raises(AssertionError):
        parsed("<table><tr></table>")
    with pytest.raises(AssertionError):
        parsed("<p>")


@pytest.mark.parametrize("name", ["<b>.", '"&amp; [bold]', "ü\nn", "n" * 200])
def test_a_directory_may_have_any_name(name, tmp_path):
    mine = tmp_path / name
    copy_of("ring-gaussian", tmp_path).rename(mine)
    result = ok("compare", mine, run_of("ring-vae"), "--out", tmp_path / "out", *SMALL)
    page = (tmp_path / "out" / "index.html").read_text()
    assert parsed(page).tags.count("b") == 0
    assert "<b>." not in page
    shown = name.replace("\n", "\N{REPLACEMENT CHARACTER}")
    assert f"\n{shown} " in result.stdout
    assert len(list((tmp_path / "out").glob("samples-*.png"))) == 3


def test_runs_of_one_name_are_told_apart(tmp_path):
    for folder, name in (("a", "ring-gaussian"), ("b", "ring-vae")):
        (tmp_path / folder).mkdir()
        copy_of(name, tmp_path / folder)
    result = ok("compare", tmp_path / "a/run", tmp_path / "b/run", "--out", tmp_path / "out", *SMALL, "--json").json
    assert [row["name"] for row in result["runs"]] == ["a/run", "b/run"]
    assert [row["picture"] for row in result["runs"]] == ["samples-a_run.png", "samples-b_run.png"]

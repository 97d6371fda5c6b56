"""Mode reproduce: its flags, the items of a request, and the runs that it trains."""

import pytest
from absl import flags
from etils import epath

from helpers import paper_runs, tiny_runs
from wbc_jax import experiment, reproduce
from wbc_jax.errors import RequestError
from wbc_jax.papers import paper_a, paper_b, plans, printed, runs

ITEMS = {"a": paper_a.ITEMS, "b": paper_b.ITEMS}


def test_items_are_those_of_the_builders():
    for paper, items in ITEMS.items():
        assert tuple(items) == reproduce.ITEMS[paper]
        assert {(item.paper, item.name) for item in items.values()} == {(paper, n) for n in items}
        assert {name for item in items.values() for name in item.needs} <= set(plans.PLANS)
        assert set(printed.items(paper)) <= set(reproduce.ITEMS[paper])
    assert reproduce.SCALES == plans.SCALES


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("b", "9", None), ("table_9",)),
        (("b", None, "7"), ("figure_7",)),
        (("b", "text", "9"), ("figure_9", "text")),
        (("a", "all", None), ("table_1", "table_2", "table_3", "table_4", "text")),
        (("a", None, "all"), ("figure_3", "figure_4", "figure_5", "figure_6", "figure_7")),
        (("a", None, None), reproduce.ITEMS["a"]),
    ],
)
def test_choose(arguments, expected):
    assert reproduce.choose(*arguments, "quick").items == expected


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((None, "4", None), "name a paper with --paper=a or --paper=b"),
        (("a", "5", None), "--table=5: paper a has 1, 2, 3, 4, text, or all"),
        (("b", None, "4"), "--figure=4: paper b has 3, 7, 8, 9, or all"),
        (("b", None, "text"), "--figure=text: paper b has 3, 7, 8, 9, or all"),
        (("b", "figure_7", None), "--table=figure_7: paper b has 1, 2, "),
    ],
)
def test_what_there_is_not(arguments, expected):
    with pytest.raises(RequestError) as error:
        reproduce.choose(*arguments, "full")
    assert expected in str(error.value)


def test_the_command_says_so_too(tmp_path):
    done = tiny_runs.command(
        "wbc_jax.main", "--mode=reproduce", "--paper=a", "--table=9", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: --table=9: paper a has 1, 2, 3, 4, text, or all"


def test_quick_trains_each_missing_run_once(tmp_path, monkeypatch, capsys):
    trained = []

    def train(config, workdir):
        trained.append((workdir.name, config))
        dataset = config.data.datasets[0]
        if config.task == "segmentation":
            paper_runs.write(
                tmp_path, workdir.name, {dataset: paper_runs.mask_scores(0)},
                rows=paper_runs.mask_rows(0, dataset),
            )  # fmt: skip
        else:
            paper_runs.write(tmp_path, workdir.name, {dataset: paper_runs.type_scores(0)})

    reasons = {"raabin_gt": "", "pbc": ""}
    monkeypatch.setattr(experiment, "run", train)
    monkeypatch.setattr(plans, "why_unavailable", lambda name, _: reasons.get(name, "is not there"))
    workdir = epath.Path(tmp_path)
    reproduce.run(reproduce.choose("a", "1", "7", "quick"), workdir)
    assert [name for name, _ in trained] == ["unet"]
    reproduce.run(reproduce.choose("b", "9", None, "quick"), workdir)
    assert [name for name, _ in trained] == ["unet", "encoder_decoder", "segnet"]
    capsys.readouterr()
    reproduce.run(reproduce.choose("b", "7", None, "quick"), workdir)
    assert [name for name, _ in trained][3:] == ["classifier_dataset_1", "classifier_dataset_2_3"]
    assert trained[4][1].data.datasets == ("raabin_gt",)  # raabin_wbc/crops is not there
    text = capsys.readouterr().out
    assert "kaggle_blood_cells/original: is not there" in text
    assert runs.QUICK in text
    page = (workdir / "paper_b" / "index.html").read_text()
    assert "Not the paper&#39;s protocol" in page
    shared = (workdir / "paper_a" / "table_1.txt").read_text()
    assert "is shared with paper B's U-Net" in shared
    reproduce.run(reproduce.choose("b", "9", None, "quick"), workdir)
    assert len(trained) == 5


def test_full_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "run", None)
    written = reproduce.run(reproduce.choose("b", "4", None, "full"), epath.Path(tmp_path))
    assert {path.name for path in written} == {
        "table_4.txt", "table_4.csv", "table_4.tex", "index.html",
    }  # fmt: skip


def test_flags_are_defined_only_when_asked_for():
    """Another program that imports the module may have a `--table` of its own."""
    names = {"paper", "table", "figure", "scale"}
    assert not names & set(flags.FLAGS)
    mine = flags.FlagValues()
    reproduce.define_flags(mine)
    mine(["command", "--paper=b", "--table=9", "--scale=quick"])
    assert reproduce.request(mine) == reproduce.Request("b", ("table_9",), "quick")
    assert not names & set(flags.FLAGS)

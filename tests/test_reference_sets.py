"""The published runs in the package: source and licence of each, the recommended rows, and the shell."""

import numpy as np
import pytest
from references import SHARED, UNLICENSED, reference_file

from analysis import card, laws, reference
from analysis.fitting import fit
from analysis.laws import published
from scaling import cli
from scaling.errors import Code, UserError

LICENCES = {"MIT", "Apache-2.0", "CC-BY-4.0"}
FITTED = [name for name in reference.names() if reference.source(name).law is not None]


def refused(code: Code, name: str, **how) -> UserError:
    with pytest.raises(UserError) as caught:
        reference.load(name, **how)
    assert caught.value.code is code
    return caught.value


def test_every_set_says_where_it_is_from_and_may_be_shipped():
    assert len(reference.names()) == 13
    for name in reference.names():
        source = reference.source(name)
        assert source.licence in LICENCES and source.copyright and source.url.startswith("https://github.com/")
        assert source.conventions["loss"] and source.changes
        table = reference.frame(name)
        assert set(source.fields) | set(source.columns.values()) <= set(table.columns)
        assert source.law is None or laws.get(source.law)
    tables = {reference.path(name).name for name in reference.names()}
    assert tables == {path.name for path in reference.FOLDER.glob("*.csv")}
    assert "permission notice" in (reference.FOLDER / "MIT.txt").read_text()
    assert sum(path.stat().st_size for path in reference.FOLDER.iterdir() if path.is_file()) < 3e6


def test_no_table_without_a_licence_is_in_the_package():
    packaged = {path.stem for path in reference.FOLDER.glob("*.csv")}
    assert not packaged & set(UNLICENSED)
    if (SHARED / "reference_runs").is_dir():
        there = {path.stem: path for path in (SHARED / "reference_runs").glob("*.csv")}
        assert set(there) == packaged | set(UNLICENSED)
        for name in packaged:
            assert reference_file(name).read_bytes() == there[name].read_bytes(), name


@pytest.mark.parametrize("name", FITTED)
def test_a_set_loads_as_it_recommends(name):
    runs = reference.load(name)
    assert 6 <= len(runs) <= len(reference.frame(name))
    assert runs.source == f"reference:{name}"
    loss = runs.table["loss"].to_numpy(float)
    assert np.isfinite(loss).all() and (loss > 0).all()


def test_what_is_given_replaces_what_is_recommended():
    rpj = reference.load("gadre", dataset="rpj")
    assert rpj.dataset == "rpj" and len(rpj) == 35
    assert reference.load("reference:gadre", dataset="rpj").sha256 == rpj.sha256
    other = reference.load("gadre", dataset="rpj", columns={"loss": "loss_openlm"})
    assert other.table["D"].equals(rpj.table["D"]) and not other.table["loss"].equals(rpj.table["loss"])
    assert len(reference.load("datablations", where="", law="repeats")) == 296
    assert reference.load("multipower", law=laws.get("multipower")).sha256 == reference.load("multipower").sha256
    assert len(reference.load("gemstones", where="subset == 'cool_end'")) == 199


def test_refusals_have_codes():
    assert "did you mean gadre?" in str(refused(Code.UNKNOWN, "gadr"))
    assert refused(Code.UNSUPPORTED, "scalebench_vocab").value == "scalebench_vocab"
    assert reference.find("runs.csv") is None
    assert reference.find("reference:gadre") == reference.source("gadre")


def test_recommended_rows_give_the_published_exponent():
    """Porian 2024: 0.497 for the tuned sweep on RefinedWeb."""
    a = fit(reference.load("porian_optima"), "growth:C").params["a"]
    assert a == pytest.approx(published.get("porian2024-rw-tuned").params["a"], abs=2e-3)


def test_the_shell_fits_a_set(capsys):
    assert cli.main(["fit", "reference:gadre", "--dataset=rpj", "--json"]) == 0
    assert '"reference:gadre"' in capsys.readouterr().out
    assert cli.main(["fit", "reference:porian_optima"]) == 0  # the law that the set recommends
    assert "growth:C" in capsys.readouterr().out
    assert cli.main(["fit", "reference:nothing"]) == 2
    assert "gadre" in capsys.readouterr().err


def test_effects_of_sizes_do_not_take_the_place_of_the_law():
    """121 runs on which the form is wrong along D: fitted within sizes alone, it missed their levels by 46 %."""
    found = fit(reference.load("porian"))
    plain = float(np.sqrt(np.mean(found.columns["residual_log"] ** 2)))
    assert found.card.objective.rms_log_residual == pytest.approx(plain) and plain < 0.12
    assert any(isinstance(w, card.StemEffects) and w.sd > 0.3 for w in found.warnings)

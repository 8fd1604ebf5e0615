"""The ablations: made at tiny size, read again, and verdicts on planted results."""

import re
import shlex
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from cpur import CertifyConfig, FinetuneConfig
from cpur.paths import root
from studies.ablation import PUBLISHED, VARIANTS, Workbench
from studies.ablation_tables import Ablation, accuracy_table, measure_table
from studies.consistency_claims import CLAIMS, Gap, claims_table, deciding_commands


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    bench = Workbench(work=str(folder / "work"), records=str(folder / "records"), steps=2, n=60, num_images=5)
    for name in ("onestep-ddpm", "features", "both"):
        bench.make(name, 0)
    return bench, folder


def test_committed_weights_are_not_replaced(tmp_path):
    """Those of another machine differ in the last bits, and would disown the records."""
    for name in PUBLISHED.values():
        (tmp_path / name).mkdir()
    Workbench(work="nowhere", steps=0).publish(tmp_path)
    assert not list(tmp_path.glob("*/*"))


def test_records_are_made_once_and_read(made):
    bench, folder = made
    files = {file: file.stat().st_mtime_ns for file in (folder / "records").rglob("*.*")}
    assert len(files) == 7 + 7 + 2
    bench.make("features", 0)
    assert files == {file: file.stat().st_mtime_ns for file in (folder / "records").rglob("*.*")}
    ablation = Ablation(folder / "records")
    assert ablation.radii("features", [0]).shape == (1, 2, 5)
    assert ablation.radii("features", [0], "digits-vit").shape == (1, 2, 2)
    assert ablation.measures("features", "FID", [0]).shape == (1, 3)
    table = measure_table(ablation, ["onestep-ddpm", "features"], "T", "onestep-ddpm")
    assert (table.loc["onestep-ddpm", ["sigma 0.25", "sigma 1"]].astype(float) > 0.5).all()


def test_rows_share_their_images(made):
    ablation = Ablation(made[1] / "records")
    rows = {"cnn": ("features", "digits-cnn"), "mlp": ("features", "digits-mlp")}
    table = accuracy_table(ablation, rows, "cnn")
    assert table.attrs["caption"] == "training seeds: 1, test images: 2"
    assert list(table.index) == ["cnn", "mlp"]


def test_missing_records_are_named(made, rejected):
    ablation = Ablation(made[1] / "records")
    with rejected(r"no record of l1 .*python -m studies.ablation"):
        ablation.seeds("l1")
    with rejected("no record with the classifier digits-mlp"):
        ablation.radii("both", [0], "digits-mlp")


@dataclass(frozen=True)
class Planted(Ablation):
    """Every variant certifies its rank among the variants, and has that rank as every measure."""

    count: int = 3

    def seeds(self, variant):
        return list(range(self.count))

    def radii(self, variant, seeds, classifier="digits-cnn"):
        right = np.arange(100) < 40 + 4 * list(VARIANTS).index(variant)
        return np.stack([np.where(right, 0.3, -1.0)[None]] * len(seeds))

    def measures(self, variant, column, seeds, sigmas=()):
        return np.full((len(seeds), 3), float(list(VARIANTS).index(variant)))


GAPS = [claim for claim in CLAIMS if isinstance(claim.find, Gap)]


def test_verdicts_follow_what_was_planted():
    table = claims_table(Planted("nowhere"))
    assert len(table) == len(GAPS) == 19
    for claim, verdict in zip(GAPS, table.verdict, strict=True):
        gap = claim.find
        if gap.margin:
            continue
        ranks = list(VARIANTS).index(gap.better) - list(VARIANTS).index(gap.worse)
        assert verdict == ("held" if (ranks > 0) == (gap.column is None) else "did not hold"), claim.text


def test_a_margin_is_taken_off():
    sources = SimpleNamespace(ablation=Planted("nowhere"))
    without, asked = (Gap("features", "onestep-ddpm", margin=m)(sources).difference for m in (0.0, 5.0))
    # Five ranks of four images of 100, certified at two of the five radii.
    assert without.estimate == pytest.approx(8)
    assert [asked.low, asked.estimate, asked.high] == pytest.approx(
        [without.low - 5, without.estimate - 5, without.high - 5]
    )


def test_few_seeds_decide_nothing():
    table = claims_table(Planted("nowhere", count=2))
    assert set(table.verdict) == {"undecided: 2 of 3 seeds"}


def test_claims_are_about_variants():
    for claim in GAPS:
        assert {claim.find.better, claim.find.worse} <= set(VARIANTS)


def test_deciding_commands_have_real_parameters():
    """Notebook parameters are fields or parameters of the notebook; flags are those of the command line."""
    transport = nbformat.read(root() / "notebooks/transport.ipynb", as_version=4).cells[1].source
    known = {
        "finetune": {field.name for field in fields(FinetuneConfig)},
        "transport": set(re.findall(r"^(\w+):", transport, re.M)),
    }
    certify = {field.name for field in fields(CertifyConfig)}
    for claim in GAPS:
        for command in deciding_commands(claim.find):
            words = shlex.split(command)
            if words[0] == "cpur":
                assert {word[2:].replace("-", "_") for word in words if word.startswith("--")} <= certify
                continue
            used = {after.split(":")[0] for word, after in pairwise(words) if word in ("-p", "-y")}
            assert used <= known[Path(words[1]).stem]

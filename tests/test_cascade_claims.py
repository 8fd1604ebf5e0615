"""The evidence for the claims about cascades, calibration and shift: made at tiny size, read, planted, committed."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from cpur.errors import InputError
from cpur.multiscale import LevelCounts
from cpur.multiscale_figures import cascade_grid
from cpur.paths import root
from studies import shift as shifts
from studies.ablation import SEEDS, Workbench, calibrated
from studies.calibration import BEFORE_AFTER, EDM, SIGMAS, TRIED, VARIANTS, weights_table
from studies.cascade_claims import CLAIMS, OWN, claims_table
from studies.cascade_tables import (
    CascadeAblation,
    acr_alone,
    at_threshold,
    before_and_after,
    levels_visited,
    right_votes,
    variants_table,
)
from studies.shift import Shift, by_corruption, gap, levels_asked

COMMITTED = CascadeAblation(root() / "records" / "calibration")
SHIFT = Shift(str(root() / "records" / "shift"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    places = {"work": str(folder / "work"), "records": str(folder / "records")}
    bench = Workbench(VARIANTS, (0,), SIGMAS, **places, steps=2, n=60, num_images=5, measures=False)
    for name in ("onestep-ddpm", "calibrated"):
        bench.make(name, 0)
    return CascadeAblation(folder / "records")


def test_variants_are_made_and_read_as_cascades(study):
    levels = study.levels("calibrated")
    assert levels.sigmas == SIGMAS
    assert levels.counts.shape == (5, 3, 10)
    assert study.levels("calibrated", sigmas=(0.25, 0.5)).sigmas == (0.25, 0.5)
    table = variants_table(study, {name: name for name in ("onestep-ddpm", "calibrated")}, "onestep-ddpm")
    assert table.attrs["caption"] == "training seeds: 1, test images: 5"
    assert table.loc["onestep-ddpm", "ACR minus onestep-ddpm"] == ""
    assert float(table.loc["calibrated", "ACR"]) >= float(table.loc["calibrated", "ACR, first"])
    assert not (study.folder / "calibrated" / "0" / "measures.json").exists()


def test_weights_are_tried_on_validation_images(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.calibration.TRIED", {"onestep-ddpm": (None,)})
    table = weights_table(str(tmp_path), n=20, num_images=4)
    assert list(table) == ["purifier", "lambda", "a", "J", "over-smoothing", "over-confidence"]
    assert 0 < table.J[0] < 1.5


@dataclass(frozen=True)
class Planted(CascadeAblation):
    """Cascades certify radius 0.3 on the share of images that is planted, levels on less; errors likewise."""

    worth: tuple[float, ...] = ()
    count: int = 3

    def seeds(self, variant):
        return list(range(self.count))

    def each(self, variant, seeds, measure):
        share = dict(zip(VARIANTS, self.worth, strict=True))[variant]
        radii = np.where(np.arange(200) < 200 * share, 0.3, 0.0)
        if measure is acr_alone:
            radii = np.stack([np.zeros(200), radii / 2, radii / 3])
        return np.stack([radii] * len(seeds))


@dataclass(frozen=True)
class PlantedShift(Shift):
    """The cascade predicts all right, the clean classifier four of five, a single level half."""

    def seeds(self):
        return [0, 1, 2]

    def corrupted(self, seed):
        index = np.arange(100)
        wrong = {"clean": index % 5 == 0, "single": index % 2 == 0, "prediction": index < 0}
        return pd.DataFrame({"subset": "blur-1", "index": index, "label": 1} | {k: 1 - v for k, v in wrong.items()})

    def whole(self, dataset):
        return self.corrupted(0).drop(columns="subset")


def test_verdicts_follow_what_was_planted():
    rising = tuple(np.linspace(0.2, 0.9, len(VARIANTS)))
    worth = dict(zip(VARIANTS, rising, strict=True)) | {"denoising": 0.1}
    table = claims_table(Planted("nowhere", tuple(worth.values())), PlantedShift())
    kinds = {
        "over-confidence": ["did not hold"] * 2,  # planted errors rise along with the radii
        "p0 =|fails to halt|Rule max": ["undecided"] * 5,  # nothing is planted between two measures of one variant
        "Other writers": ["undecided: 1 of 3 seeds"],
        "No certificate|same formula": ["held", "did not hold"],
        "ImageNet|classifier too": ["not decidable here"] * 2,
    }
    rest = table
    for pattern, verdicts in kinds.items():
        chosen = rest.claim.str.contains(pattern)
        assert rest.verdict[chosen].tolist() == verdicts
        rest = rest[~chosen]
    assert set(rest.verdict) == {"held"}
    falling = Planted("nowhere", tuple(1 - share for share in worth.values()))
    table = claims_table(falling, PlantedShift())
    assert table.verdict[table.claim.str.contains("alone raises")].tolist() == ["did not hold"] * 2
    assert len(table) == len(CLAIMS) + len(OWN)


def test_levels_visited_by_hand():
    """Shares of the most voted class at 0.25, 0.5, 1: halts at the second level; at the first; nowhere."""
    counts = np.array([[[9, 1], [6, 4], [5, 5]], [[9, 1], [9, 1], [8, 2]], [[5, 5], [5, 5], [5, 5]]])
    levels = LevelCounts({}, [], SIGMAS, np.arange(3), np.array([0, 1, 0]), counts.argmax(-1), counts)
    assert levels_visited(levels).tolist() == [2, 1, 3]
    assert levels_visited(levels, 0.85).tolist() == [3, 2, 3]
    assert right_votes(levels).tolist() == [100, 0, 0]
    assert at_threshold(right_votes, 0.95)(levels).tolist() == [0, 0, 0]


def test_a_few_corruptions_are_predicted_once(tmp_path):
    small = Shift(str(tmp_path), votes=20, families=("contrast",), make=True)
    frame = small.corrupted(0)
    assert frame.groupby("subset").size().to_dict() == dict.fromkeys(
        ["clean", *(f"contrast-{severity}" for severity in range(1, 6))], 50
    )
    assert list(frame.columns) == ["subset", "index", "label", "clean", "level", "cascade", "prediction", "single"]
    before = (tmp_path / "digits-c-0.csv").stat().st_mtime_ns
    again = small.corrupted(0)
    pd.testing.assert_frame_equal(frame, again)
    assert (tmp_path / "digits-c-0.csv").stat().st_mtime_ns == before
    assert small.seeds() == [0]
    table = by_corruption([frame, frame])
    assert list(table.index) == ["clean", "contrast"]
    assert table.loc["clean", "clean classifier"] > 90


def test_what_is_missing_is_named_with_the_command(tmp_path):
    for read in (lambda shift: shift.corrupted(0), lambda shift: shift.whole("digits"), lambda s: s.certify("digits")):
        with pytest.raises(InputError, match=r"is missing; python -m studies\.shift"):
            read(Shift(str(tmp_path)))


def test_gap_and_cost_by_hand():
    """Two images under two corruptions: our predictor is right in 3 of 4, the other in 2 of 4."""
    frame = pd.DataFrame(
        {
            "subset": ["a-1", "a-1", "b-1", "b-1", "clean"],
            "index": [0, 1, 0, 1, 0],
            "label": 1,
            "prediction": [1, 1, 1, 0, 0],
            "clean": [1, 0, 1, 0, 0],
            "level": [2, 0, -1, 1, 2],
        }
    )
    assert gap([frame], "prediction", "clean").estimate == pytest.approx(25)
    assert gap([frame], "prediction", "clean", margin=1).estimate == pytest.approx(26)
    assert levels_asked(frame) == pytest.approx((1 + 3 + 3 + 2 + 1) / 5)


def test_committed_evidence_is_whole():
    assert COMMITTED.common_seeds(list(VARIANTS)) == list(SEEDS)
    for name in VARIANTS:
        for seed in SEEDS:
            levels = COMMITTED.levels(name, seed)
            assert levels.sigmas == SIGMAS
            assert len(levels.index) == 500
    for sigmas in (SIGMAS, (0.12, 0.25, 0.5)):
        cascades = before_and_after(COMMITTED, sigmas)
        assert [levels.sigmas for levels in cascades.values()] == [sigmas] * 2 * len(BEFORE_AFTER)
    assert set(EDM) <= {folder.name for folder in COMMITTED.folder.iterdir()}
    weights = pd.read_csv(COMMITTED.folder / "weights.csv")
    assert weights.groupby("purifier", sort=False).size().to_dict() == {k: len(v) for k, v in TRIED.items()}
    assert SHIFT.seeds() == list(SEEDS)
    assert all(len(SHIFT.whole(dataset)) == 500 for dataset in shifts.SUBJECTS)


def test_a_calibrated_consistency_model_keeps_its_distance():
    assert calibrated("consistency").finetune["loss"] == "features"
    assert calibrated().finetune["loss"] == "l2"


def test_a_grid_has_a_panel_a_cascade(study):
    figure = cascade_grid({name: study.levels(name) for name in ("onestep-ddpm", "calibrated")})
    assert [axes.get_title() for axes in figure.axes] == ["onestep-ddpm", "calibrated"]
    assert len(figure.axes[0].lines) == 3 + 1 + 3

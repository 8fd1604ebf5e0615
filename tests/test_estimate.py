"""The estimate of a run is near what the run then takes."""

from dataclasses import replace

from cpur import CertifyConfig, certify_dataset, cli
from cpur.estimate import duration, estimate

RUN = CertifyConfig(purifier="none", sigma=0.25, n=2000, n0=20, num_images=60, batch_size=100)


def test_samples_of_a_fixed_plan_are_known():
    told = estimate(RUN)
    assert told.samples == told.most_samples == 60 * 2020
    assert told.samples_per_second > 0
    assert told.memory > 10**7
    assert told.seconds == told.samples / told.samples_per_second
    assert estimate(RUN, remaining=10).most_samples == 10 * 2020


def test_samples_of_a_sequential_plan_are_near(tmp_path):
    config = replace(RUN, plan="sequential", records_dir=str(tmp_path))
    told = estimate(config)
    taken = sum(row["n0"] + row["n"] for row in certify_dataset(config).rows)
    assert 0.6 * taken < told.samples < 1.6 * taken
    assert told.most_samples == 60 * 2020


def test_the_command_estimates_and_starts_nothing(tmp_path, capsys):
    config = replace(RUN, records_dir=str(tmp_path / "records"))
    cli.certify(config, estimate=True)
    out = capsys.readouterr().out
    for part in ("images            60", "at most 121,200", "samples a second", "time", "GiB"):
        assert part in out
    assert not (tmp_path / "records").exists()


def test_durations():
    assert [duration(s) for s in (3, 200, 7300, 2e5)] == ["3 seconds", "3.3 minutes", "2.0 hours", "2.3 days"]

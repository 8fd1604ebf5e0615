"""Steered sampling of a cascade: what it samples, what it certifies, and its record."""

import json

import numpy as np
import pytest
import torch
from conftest import HalfSpace

from cpur.cascade import certify_counts
from cpur.config import MultiscaleConfig
from cpur.engine import certify_dataset, prepare
from cpur.noise import NoiseKey, noisy_images
from cpur.plans import sequential
from cpur.records import load_record
from cpur.sampling import Draw, Sampler, Task
from cpur.steering import UNSEEN, Cascade, Levels

SIGMAS = (0.25, 0.5, 1.0)
SMALL = {"n": 500, "n0": 50, "num_images": 6, "batch_size": 100}


class Levelled(torch.nn.Module):
    """A half-space whose offset grows with the noise level."""

    def __init__(self):
        super().__init__()
        self.half_space = HalfSpace(torch.ones(1, 4, 4) / 4)

    def forward(self, x, sigma):
        assert sigma.shape == (len(x),)
        return self.half_space(x - sigma[:, None, None, None])


def run(probabilities, epsilons=(), n=10_000, seed=0):
    """The levels of an image with such class probabilities, sampled until nothing more is asked."""
    rng = np.random.default_rng(seed)
    state = Levels(Cascade(SIGMAS, 0.5, sequential(100, n, 0.001), epsilons), len(probabilities[0]))
    counts = {}
    while (draw := state.next_draw()) is not None:
        before = counts.get((draw.purpose, draw.level), np.zeros(len(probabilities[0]), np.int64))
        counts[draw.purpose, draw.level] = before + rng.multinomial(draw.n - before.sum(), probabilities[draw.level])
        state.add(draw, counts[draw.purpose, draw.level])
    return state


def test_a_robust_image_is_sampled_at_the_largest_sigma_alone():
    state = run([[1.0, 0.0]] * 3)
    assert state.counts.sum(1).tolist() == [0, 0, 10_000]
    assert state.selected.tolist() == [UNSEEN, UNSEEN, 0]
    assert state.certificate().radius > 3


def test_levels_that_merely_pass_get_few_samples():
    spread = [0.49] + [0.01] * 51
    state = run([[0.99] + [0.01 / 51] * 51, spread, spread])
    low, middle, high = state.counts.sum(1)
    assert low == 10_000
    assert max(middle, high) <= 1000
    assert state.certificate().level == 0


def test_a_hopeless_image_is_given_up():
    state = run([[0.34, 0.33, 0.33]] * 3)
    assert state.counts.sum() < 3000
    assert state.certificate().radius == 0


def test_sampling_stops_when_the_epsilons_are_decided():
    probabilities = [[0.99, 0.01], [0.9, 0.1], [0.6, 0.4]]
    stopped, whole = run(probabilities, (0.0, 0.1)), run(probabilities)
    assert stopped.counts.sum() < whole.counts.sum() / 3
    assert 0.1 <= stopped.certificate().radius <= whole.certificate().radius


def test_hardly_any_radius_is_lost():
    rng = np.random.default_rng(1)
    steered = whole = 0.0
    for seed in range(30):
        shares = rng.dirichlet(np.full(3, 1.0)) ** np.array([[8], [3], [1]])
        shares /= shares.sum(1, keepdims=True)
        steered += run(shares, seed=seed).certificate().radius
        counts = rng.multinomial(10_000, shares)
        whole += certify_counts(counts, SIGMAS, 0.001, selected=shares.argmax(1)).radius
    assert steered > 0.97 * whole


def test_counts_at_a_level_are_those_of_its_noise():
    image, base = torch.full((1, 4, 4), 0.3), Levelled()

    def procedure():
        first = yield Draw("estimation", 70, 2)
        other = yield Draw("estimation", 150, 0)
        again = yield Draw("estimation", 200, 2)  # goes on where it was
        return first, other, again

    tasks = [Task(index, image, procedure()) for index in (3, 8)]
    found = {done.index: done.result for done in Sampler(base, 2, SIGMAS, 0, 64).run(tasks)}
    for index, results in found.items():
        for counts, n, level in zip(results, (70, 150, 200), (2, 0, 2), strict=True):
            noisy = noisy_images(image, SIGMAS[level], n, NoiseKey(0, "estimation", index, level))
            votes = base(noisy, torch.full((n,), SIGMAS[level])).argmax(1)
            assert counts.tolist() == torch.bincount(votes, minlength=2).tolist()


@pytest.mark.parametrize("plan", ["full", "sequential"])
def test_record_of_a_cascade(plan, tmp_path):
    config = MultiscaleConfig(**SMALL, plan=plan, records_dir=str(tmp_path))
    record = certify_dataset(config)
    assert record.file.name.startswith("digits-onestep-edm-s0.25-0.5-1-")
    header, frame = load_record(record.file)
    assert header["identity"]["sigmas"] == [0.25, 0.5, 1.0]
    assert len(frame) == 6
    assert (frame.n0 % 50 == 0).all()
    assert (frame.n == [sum(map(sum, counts)) for counts in frame.counts]).all()
    # A larger batch, and a run that goes on where another stopped, give the same counts.
    lines = record.file.read_text().splitlines(keepends=True)
    record.file.write_text("".join(lines[:4]))
    again = load_record(certify_dataset(config).file)[1]
    assert again.drop(columns="seconds").equals(frame.drop(columns="seconds"))


def test_a_changed_count_is_found(tmp_path, rejected):
    file = certify_dataset(MultiscaleConfig(**SMALL, records_dir=str(tmp_path))).file
    header, *lines = map(json.loads, file.read_text().splitlines())
    line = next(line for line in lines if line["radius"] > 0)
    line["radius"] += 0.01
    file.write_text("\n".join(map(json.dumps, [header, *lines])) + "\n")
    with rejected(f"the counts of image {line['index']} do not give its prediction and radius"):
        load_record(file)


def test_a_row_ignores_the_levels_of_its_neighbours():
    base = prepare(MultiscaleConfig(**SMALL, purifier="consistency")).base_classifier
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alone, mixed = torch.full((8,), 0.5), torch.tensor([0.5, 1.0, 0.25, 0.5, 1.0, 1.0, 0.25, 0.5])
    with torch.inference_mode():
        same = mixed == 0.5
        assert torch.equal(base(x, alone)[same], base(x, mixed)[same])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sigmas": [0.5, 0.5]}, "sigmas must all be different"),
        ({"sigmas": []}, "sigmas must be a list of levels"),
        ({"sigmas": [0.5, 20]}, r"sigmas must lie in \(0, 16\]"),
        ({"threshold": 1.0}, r"threshold must lie in \(0, 1\), commonly 0.5; got 1.0"),
        ({"plan": "fixed"}, "plan must be one of full, sequential"),
        ({"n": 12}, "n = 12 samples can never certify at alpha = 0.001"),
    ],
)
def test_bad_values_are_named(change, sentence, rejected):
    with rejected(sentence):
        MultiscaleConfig(**change)

"""Packing: the counts of an image are its own, whatever shares its batches."""

import numpy as np
import pytest
import torch
from conftest import HalfSpace

from cpur.errors import InputError
from cpur.plans import StoppingRule, sequential
from cpur.sampling import IN_FLIGHT, Draw, Sampler, Task, once
from cpur.smooth import Smooth, certification

SIGMA = 0.5
BASE = HalfSpace(torch.tensor([1.0, -0.5, 0.25, 1.0]), b=0.6)


def image(index):
    return torch.full((1, 2, 2), 0.25 + 0.01 * index)


def tasks(indices, n=130):
    return [Task(index, image(index), once(Draw("estimation", n))) for index in indices]


def run(tasks, batch_size=50, base=BASE, num_classes=2):
    return {done.index: done.result.tolist() for done in Sampler(base, num_classes, (SIGMA,), 0, batch_size).run(tasks)}


@pytest.fixture(scope="module")
def alone():
    smooth = Smooth(BASE, 2, SIGMA)
    return {index: smooth.counts(image(index), 130, 50, index=index).tolist() for index in range(100)}


@pytest.mark.parametrize("batch_size", [1, 7, 50, 130, 1000])
def test_counts_do_not_depend_on_the_batch(alone, batch_size):
    count = 5 if batch_size == 1 else 20
    assert run(tasks(range(count)), batch_size) == {index: alone[index] for index in range(count)}


def test_counts_do_not_depend_on_order_or_company(alone):
    assert run(tasks(range(100))) == alone  # more images than fly at once
    assert IN_FLIGHT < 100
    assert run(tasks(reversed(range(100)))) == alone
    assert run(tasks(range(3, 100, 7))) == {index: alone[index] for index in range(3, 100, 7)}


def watched():
    """The base classifier, and a list of the sizes of its batches."""
    sizes = []

    def base(x):
        sizes.append(len(x))
        return BASE(x)

    return sizes, base


def test_batches_have_one_shape_and_are_full():
    sizes, base = watched()
    run(tasks(range(10)), base=base)
    assert set(sizes) == {50}
    assert len(sizes) == 10 * 130 // 50


def test_small_looks_share_batches():
    """A sequential plan on many images needs hardly more batches than its samples fill."""
    batches, base = watched()
    plan = sequential(20, 2000, 0.001)
    rule = StoppingRule(plan, SIGMA, (0.0, 0.25))
    sampler = Sampler(base, 2, (SIGMA,), 0, 100)
    done = list(sampler.run(Task(index, image(index), certification(plan, rule)) for index in range(40)))
    samples = sum(plan.n0 + int(one.result.counts.sum()) for one in done)
    assert len(batches) * 100 < 1.1 * samples + 2000  # at the end the last images fly alone


def test_a_procedure_sees_growing_counts():
    seen = []

    def procedure():
        for n in (10, 25, 130):
            seen.append((yield Draw("estimation", n)))
        return (yield Draw("selection", 30))

    (done,) = Sampler(BASE, 2, (SIGMA,), 0, 64).run([Task(4, image(4), procedure())])
    smooth = Smooth(BASE, 2, SIGMA)
    for n, counts in zip((10, 25, 130), seen, strict=True):
        assert counts.tolist() == smooth.counts(image(4), n, 64, index=4).tolist()
    assert done.result.tolist() == smooth.counts(image(4), 30, 64, index=4, purpose="selection").tolist()
    assert done.seconds > 0


def test_seconds_are_shares_of_the_time():
    sampler = Sampler(BASE, 2, (SIGMA,), 0, 50)
    done = list(sampler.run(tasks(range(30))))
    assert 0.2 * sampler.clock()[0] < sum(one.seconds for one in done) < 1.5 * sampler.clock()[0]


def test_a_closed_sampler_ends():
    sampler = Sampler(BASE, 2, (SIGMA,), 0, 50)
    results = sampler.run(tasks(range(100)))
    next(results)
    sampler.close()
    assert len(list(results)) < 5


def with_logit(value):
    """The base classifier, with one logit of each batch replaced; NaN and inf win the vote, -inf loses it."""

    def base(x):
        logits = BASE(x)
        logits[0, 0] = float(value)
        return logits

    return base


@pytest.mark.parametrize(
    ("base", "num_classes", "match"),
    [
        (with_logit("nan"), 2, "not finite on image 0 at sigma 0.5: check the checkpoint"),
        (with_logit("inf"), 2, "not finite on image 0"),
        (with_logit("-inf"), 2, "not finite on image 0"),
        (BASE, 3, r"returned shape \(50, 2\); expected \(50, 3\): check num_classes"),
        (lambda x: 1 / 0, 2, "failed on noisy copies of image 0: ZeroDivisionError: division by zero"),
        (lambda x: "cat", 2, r"returned shape \(\)"),
        (lambda x: x[:, 0, 0] if x.mean() > 99 else x.flatten(1)[:1], 2, "returned shape"),
    ],
)
def test_a_bad_base_classifier_is_one_error(base, num_classes, match, rejected):
    with rejected(match):
        run(tasks(range(3)), base=base, num_classes=num_classes)


def test_out_of_memory_says_what_to_do(rejected):
    def full(x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with rejected("a batch of 50 does not fit into memory: lower batch_size"):
        run(tasks([0]), base=full)


def test_finished_images_come_before_the_error():
    calls = []

    def later(x):
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("late")
        return BASE(x)

    finished = []

    def collect():
        for done in Sampler(later, 2, (SIGMA,), 0, 50).run(tasks(range(10))):
            finished.append(done.index)

    with pytest.raises(InputError, match="late"):
        collect()
    assert finished == [0]  # five batches of 50 hold the 130 samples of one image, and part of the next
    assert np.unique(finished).size == len(finished)

"""Published data sets, on small files in their true format; and what is wrong with a set is said in one sentence."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cpur import CertifyConfig, certify_dataset, load_dataset, load_record
from cpur.classifiers import SomeClasses
from cpur.images import subset_rows
from cpur.unpickle import read_arrays

RNG = np.random.default_rng(0)


def pixels(count, size=32):
    return RNG.integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def cifar_folder(folder, rows=20):
    """The official archive: rows of 3,072 bytes, colour by colour, and lists of labels, under keys of bytes."""
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    arrays = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data, labels = pixels(rows), [i % 10 for i in range(rows)]
        arrays[name] = data
        batch = {b"batch_label": b"x", b"labels": labels, b"data": data.reshape(rows, -1), b"filenames": [b"f"] * rows}
        (inner / name).write_bytes(pickle.dumps(batch, protocol=2))
    return arrays


@pytest.mark.parametrize("inside", [True, False])
def test_cifar10_reads_the_official_archive(inside, tmp_path):
    arrays = cifar_folder(tmp_path)
    root = str(tmp_path if inside else tmp_path / "cifar-10-batches-py")
    test = load_dataset("cifar10", "test", root)
    assert (len(test), test.shape, test.num_classes) == (20, (3, 32, 32), 10)
    assert test.pixels.dtype == torch.uint8
    image, label = test[13]
    assert label == 3
    assert torch.equal(image, torch.from_numpy(arrays["test_batch"][13]).float() / 255)
    train, val = (load_dataset("cifar10", split, root) for split in ("train", "val"))
    assert (len(train), len(val)) == (90, 10)
    assert torch.equal(val.pixels, torch.from_numpy(arrays["data_batch_5"][10:]))
    assert load_dataset("cifar10", "test", root, "every-5").labels.tolist() == [0, 5, 0, 5]


def test_cifar10_1_and_c(tmp_path):
    channels_last = pixels(50).transpose(0, 2, 3, 1)
    np.save(tmp_path / "cifar10.1_v6_data.npy", channels_last[:7])
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(7, dtype=np.int32))
    found = load_dataset("cifar10.1", root=str(tmp_path))
    assert torch.equal(found.pixels, torch.from_numpy(channels_last[:7].transpose(0, 3, 1, 2).copy()))
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", channels_last)
    np.save(folder / "labels.npy", np.tile(np.arange(10), 5))
    found = load_dataset("cifar10-c", root=str(tmp_path), subset="fog-3/every-2")
    assert torch.equal(found.pixels, torch.from_numpy(channels_last[20:30:2].transpose(0, 3, 1, 2).copy()))
    assert found.labels.tolist() == [0, 2, 4, 6, 8]


def wnids(count=1000):
    return [f"n{10_000_000 + 7 * i}" for i in range(count)]


def folders(root, names, files):
    for name in names:
        (root / name).mkdir(parents=True)
    for name, file, size in files:
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / name / file)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    names = wnids()
    files = [(names[3], "b.JPEG", (300, 260)), (names[3], "a.JPEG", (256, 400)), (names[999], "c.png", (64, 64))]
    folders(root / "val", names, files)
    return root


def test_imagenet_is_scaled_and_cropped(imagenet):
    data = load_dataset("imagenet", root=str(imagenet))
    assert data.labels.tolist() == [3, 3, 999]
    assert [file.name for file in data.files] == ["a.JPEG", "b.JPEG", "c.png"]
    assert (len(data), data.num_classes, data.shape) == (3, 1000, (3, 224, 224))
    image, label = data[1]
    assert image.shape == data.shape
    assert label == 3
    assert torch.equal(image * 255, (image * 255).round())  # bytes
    assert torch.equal(data.batch([1, 2])[0], image)
    assert len(load_dataset("imagenet", root=str(imagenet), subset="every-2")) == 2
    assert load_dataset("imagenet64", root=str(imagenet)).shape == (3, 64, 64)


@pytest.mark.parametrize("kind", ["pickle", "npz"])
def test_imagenet64_reads_the_official_arrays(kind, tmp_path):
    """Their labels number the classes in the order of map_clsloc.txt, from 1."""
    data, names = pixels(4, 64), wnids()
    values = {"data": data.reshape(4, -1), "labels": [1, 1000, 2, 2]}
    if kind == "pickle":
        (tmp_path / "val_data").write_bytes(pickle.dumps(values, protocol=2))
    else:
        np.savez(tmp_path / "val_data.npz", **values)
    order = [names[-1], names[0], *names[1:-1]]  # the arrays' first class is the last by name
    (tmp_path / "map_clsloc.txt").write_text("\n".join(f"{name} {i + 1} word" for i, name in enumerate(order)))
    found = load_dataset("imagenet64", root=str(tmp_path))
    assert found.labels.tolist() == [999, 998, 0, 0]
    assert torch.equal(found.pixels, torch.from_numpy(data))


def test_imagenet_a_masks_the_other_classes(tmp_path):
    names = wnids()
    some = names[100:300]
    folders(tmp_path / "imagenet-a", some, [(some[5], "x.jpg", (70, 60))])
    (tmp_path / "imagenet_class_index.json").write_text(json.dumps({str(i): [n, "word"] for i, n in enumerate(names)}))
    data = load_dataset("imagenet-a", root=str(tmp_path))
    assert data.num_classes == 200
    assert data.labels.tolist() == [5]
    assert data.classes == tuple(range(100, 300))


def test_masked_logits():
    logits = torch.arange(12.0).view(2, 6)

    class Fixed(nn.Module):
        def forward(self, x):
            return logits

    assert SomeClasses(Fixed(), (4, 1))(torch.zeros(2, 3, 1, 1)).tolist() == [[4.0, 1.0], [10.0, 7.0]]


def test_any_folder(tmp_path):
    folders(tmp_path / "test", ["cat", "dog"], [("cat", "1.png", (20, 16)), ("dog", "2.png", (30, 30))])
    data = load_dataset(str(tmp_path))
    assert (data.shape, data.num_classes, data.labels.tolist()) == ((3, 16, 16), 2, [0, 1])
    assert data.images.shape == (2, 3, 16, 16)


WRONG = {
    "not given": (lambda f: ("cifar10", None, None), "cifar10 is not shipped: get .*cifar-10-python.tar.gz"),
    "no folder": (lambda f: ("cifar10", str(f / "nowhere"), None), "there is no folder"),
    "half unpacked": (
        lambda f: (cifar_folder(f), (f / "cifar-10-batches-py/test_batch").unlink()) and ("cifar10", str(f), None),
        "lacks test_batch: .*unpacked whole",
    ),
    "torn": (
        lambda f: (
            (cifar_folder(f), os.truncate(f / "cifar-10-batches-py/test_batch", 5000)) and ("cifar10", str(f), None)
        ),
        "is not a pickle of arrays",
    ),
    "label out of range": (
        lambda f: (cifar_folder(f), rewrite(f, b"labels", [10] * 20)) and ("cifar10", str(f), None),
        "labels of cifar10 must lie in 0 to 9; got 10 to 10",
    ),
    "images of another size": (
        lambda f: (cifar_folder(f), rewrite(f, b"data", np.zeros((20, 27), np.uint8))) and ("cifar10", str(f), None),
        "is not a batch of CIFAR-10",
    ),
    "no corruption": (lambda f: (f / "CIFAR-10-C").mkdir() or ("cifar10-c", str(f), "fog-3"), "has no corruption fog"),
    "no severity": (lambda f: ("cifar10-c", str(f), "fog"), "needs subset: a corruption and its severity"),
    "few classes": (
        lambda f: folders(f / "val", wnids(3), []) or ("imagenet", str(f), None),
        "has 3 class folders .* expected 1000",
    ),
    "no images": (lambda f: folders(f / "val", wnids(), []) or ("imagenet", str(f), None), "there is no image in"),
    "no class order": (
        lambda f: (
            (f / "val_data").write_bytes(pickle.dumps({"data": pixels(1, 64), "labels": [1]}))
            and ("imagenet64", str(f), None)
        ),
        "lacks map_clsloc.txt",
    ),
    "no class list": (
        lambda f: folders(f, wnids(200), []) or ("imagenet-r", str(f), None),
        "nothing beside .* says which of the 1000 classes",
    ),
    "empty folder": (lambda f: (str(f), None, None), "must hold a folder of images for each class"),
}


def rewrite(folder, key, value):
    file = folder / "cifar-10-batches-py/test_batch"
    batch = pickle.loads(file.read_bytes(), encoding="bytes") | {key: value}
    file.write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case, tmp_path, rejected):
    make, sentence = WRONG[case]
    name, root, subset = make(tmp_path)
    with rejected(sentence):
        load_dataset(name, "test", root, subset)


def test_a_torn_image_is_named(tmp_path, rejected):
    folders(tmp_path, ["cat"], [("cat", "1.png", (40, 40)), ("cat", "2.png", (40, 40))])
    os.truncate(tmp_path / "cat" / "2.png", 300)
    data = load_dataset(str(tmp_path))
    with rejected("2.png is not a whole image"):
        data[1]


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/cpur-was-here",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, rejected):
    file = tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps({b"data": Evil()}))
    with rejected("names posix.system, which no array needs"):
        read_arrays(file)
    assert not os.path.exists("/tmp/cpur-was-here")


def test_subsets():
    assert subset_rows("x", "every-20") == slice(None, None, 20)
    assert subset_rows("x", None) == slice(None)


MAKE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""


def test_cifar10_is_certified(tmp_path, monkeypatch):
    cifar_folder(tmp_path)
    (tmp_path / "tiny_classifier.py").write_text(MAKE)
    monkeypatch.chdir(tmp_path)
    config = CertifyConfig(
        dataset="cifar10",
        root=str(tmp_path),
        purifier="none",
        classifier="tiny_classifier:make",
        n=100,
        n0=20,
        num_images=3,
        batch_size=60,
        subset="every-5",
        records_dir=str(tmp_path / "records"),
    )
    header, frame = load_record(certify_dataset(config).file)
    assert header["identity"]["dataset"] == "cifar10"
    assert frame.label.tolist() == [0, 5, 0]

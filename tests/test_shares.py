"""Several processes on one record: who takes which image, kills and resumes, joining the parts."""

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace

import pytest
from torch.distributed import TCPStore

from cpur import CertifyConfig, certify_dataset, load_record
from cpur.engine import lines_so_far, record_file
from cpur.merge import merge, parts, parts_folder
from cpur.shares import Share

RUN = CertifyConfig(purifier="none", sigma=0.25, n=2000, n0=20, num_images=24, batch_size=100, plan="sequential")


def counted(rows):
    """What the images say, by index; only the time may differ."""
    return {row["index"]: {key: value for key, value in row.items() if key != "seconds"} for row in rows}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    config = replace(RUN, records_dir=str(tmp_path_factory.mktemp("whole")))
    return counted(certify_dataset(config).rows)


@pytest.fixture
def config(tmp_path):
    return replace(RUN, records_dir=str(tmp_path))


def test_shards_are_a_partition():
    taken = [list(Share(shard, 3).indices(100)) for shard in range(3)]
    assert sorted(itertools.chain(*taken)) == list(range(100))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    assert taken[0] != sorted(taken[0])  # a permutation: no shard gets one end of a sorted data set
    assert list(Share().indices(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("shard", "shards"), [(3, 3), (-1, 2), (0, 0)])
def test_a_shard_must_be_one_of_them(shard, shards, rejected):
    with rejected("shard must lie in"):
        Share(shard, shards)


def test_ranks_take_the_next_image_from_the_store():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    one, two = (Share(rank=rank, store=store).indices(7) for rank in range(2))
    first = [next(one), next(two), next(two)]
    assert first + list(one) + list(two) == list(range(7))


def test_parts_are_named(monkeypatch):
    assert Share().part is None
    assert Share(2, 4).part == "shard2"
    assert Share(2, 4, rank=1).part == "shard2-rank1"
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Share(0, 4, rank=1).processes == 32


def test_shards_together_make_the_record(config, undisturbed, rejected):
    for shard in range(3):
        certify_dataset(config, share=Share(shard, 3))
        merged = merge(parts(record_file(config)))
        assert merged.images + len(merged.missing) == RUN.num_images
    assert merged.missing == []
    assert merged.file == record_file(config)
    header, frame = load_record(merged.file)
    assert header["hardware"]["processes"] == 3
    assert counted(lines_so_far(merged.file).values()) == undisturbed
    assert frame["index"].tolist() == list(range(RUN.num_images))
    before = merged.file.read_bytes()
    assert merge([merged.file, *parts(merged.file)]).file.read_bytes() == before  # merging again changes nothing


def test_one_process_goes_on_where_the_parts_ended(config, undisturbed):
    """And a rank goes on where one process ended, without repeating an image."""
    certify_dataset(config, share=Share(0, 4))
    record = certify_dataset(config)
    assert counted(record.rows) == undisturbed
    assert not certify_dataset(config, share=Share(1, 4)).rows


def test_merge_finds_what_does_not_fit(config, tmp_path, rejected):
    record = certify_dataset(replace(config, num_images=3))
    head, *rows = record.file.read_text().splitlines()
    line = json.loads(rows[1]) | {"label": 9, "seconds": 77}
    other = tmp_path / "other.jsonl"
    other.write_text(f"{head}\n{json.dumps(line)}\n")
    with rejected(f"image {line['index']} has different counts in"):
        merge([record.file, other])
    other.write_text(f"{head}\n{json.dumps(json.loads(rows[1]) | {'seconds': 77})}\n{rows[2][:30]}")
    assert merge([record.file, other], tmp_path / "out.jsonl").images == 3
    assert merge([other], tmp_path / "out.jsonl").missing == [i for i in range(3) if i != line["index"]]
    foreign = certify_dataset(replace(config, num_images=3, seed=1)).file
    with rejected("records of different configurations"):
        merge([record.file, foreign])
    (tmp_path / "empty.jsonl").write_text("")
    with rejected("there is no record among"):
        merge([tmp_path / "empty.jsonl"])
    with rejected("no files"):
        merge([])


def rank(config, number, port):
    """One rank, as torchrun starts it; runs in a process of its own."""
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(number),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    certify_dataset(config, share=Share.from_environment())


def two_processes(config, kill=None):
    """Runs two ranks; ``kill`` is a moment in seconds and the ranks that are killed then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cpur.engine", "test_shares"])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [context.Process(target=rank, args=(config, number, store.port)) for number in range(2)]
    for process in ranks:
        process.start()
    if kill:
        moment, victims = kill
        time.sleep(moment)
        for victim in victims:
            ranks[victim].kill()
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]


def test_twenty_kills_of_a_two_process_run(config, undisturbed, tmp_path):
    """After each kill, at a random moment, the next run gives the counts of an undisturbed one."""
    assert two_processes(replace(config, num_images=1)) == [0, 0]  # starts the server that processes are forked from
    start = time.perf_counter()
    assert two_processes(config) == [0, 0]
    duration = time.perf_counter() - start
    assert counted(lines_so_far(record_file(config)).values()) == undisturbed
    chance = random.Random(0)
    killed, interrupted = 0, 0
    for number in range(20):
        config = replace(config, records_dir=str(tmp_path / str(number)))
        victims = chance.choice([(0,), (1,), (0, 1)])
        codes = two_processes(config, (chance.uniform(0, duration), victims))
        killed += codes.count(-signal.SIGKILL)
        kept = counted(lines_so_far(record_file(config)).values()) if parts_folder(record_file(config)).exists() else {}
        interrupted += 0 < len(kept) < RUN.num_images
        assert two_processes(config) == [0, 0]
        merged = merge(parts(record_file(config)))
        assert merged.missing == []
        rows = lines_so_far(merged.file)
        assert counted(rows.values()) == undisturbed
        assert {index: row for index, row in counted(rows.values()).items() if index in kept} == kept
    assert killed >= 10
    assert interrupted >= 3  # some were killed in the middle of the work

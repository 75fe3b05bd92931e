import json
import multiprocessing

import numpy as np
import pytest

from fedstill.common.arrays import decode_chunk, parse_manifest, read_message
from fedstill.common.errors import ConfigError, DataError, DigestError, NotPublishedError
from fedstill.server.labels import LabelStore

ORIGIN = {"teacher_digest": "teacher", "public_digest": "public"}


def logits(num_samples=600, num_classes=10, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (num_samples, num_classes)).astype(np.float32)


def read_all(store, digest):
    stored = store.array(digest)
    manifest = parse_manifest(stored.manifest, digest=digest)
    parts = [
        decode_chunk(manifest, index, read_message(manifest, index, stored.message(index)))
        for index in range(stored.num_chunks)
    ]
    return np.concatenate(parts)


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels")


def test_published_logits_come_back_read_only(store):
    label_set = store.publish_labels(logits(), **ORIGIN)
    mapped = store.logits(label_set.id)
    np.testing.assert_array_equal(mapped, logits())
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable


def test_label_set_describes_itself(store):
    label_set = store.publish_labels(logits(), **ORIGIN, chunk_bytes=8192)
    assert (label_set.num_samples, label_set.num_classes) == (600, 10)
    assert store.label_set(label_set.id) == label_set


def test_the_id_depends_on_logits_and_origin_only(tmp_path):
    def published_id(name, values, chunk_bytes=4096, **origin):
        return (
            LabelStore(tmp_path / name)
            .publish_labels(values, **{**ORIGIN, **origin}, chunk_bytes=chunk_bytes)
            .id
        )

    first = published_id("a", logits())
    assert published_id("b", logits(), chunk_bytes=1_048_576) == first
    assert published_id("c", logits(seed=1)) != first
    assert published_id("d", logits(), teacher_digest="another") != first
    assert published_id("e", logits(), public_digest="another") != first


def test_the_first_published_wins(store):
    first = store.publish_labels(logits(), **ORIGIN)
    assert store.publish_labels(logits(seed=1), **ORIGIN) == first
    assert store.find_labels(**ORIGIN) == first


def test_another_augmentation_seed_is_another_entry(store):
    first = store.publish_labels(logits(), **ORIGIN)
    second = store.publish_labels(logits(seed=1), **ORIGIN, augmentation_seed=1)
    assert second.id != first.id
    assert store.find_labels(**ORIGIN, augmentation_seed=1) == second


def test_what_was_not_published_is_not_found(store):
    assert store.find_labels(**ORIGIN) is None
    with pytest.raises(NotPublishedError):
        store.logits("0" * 64)


@pytest.mark.parametrize("label_set_id", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_an_id_is_never_a_path(store, label_set_id):
    with pytest.raises(NotPublishedError):
        store.encode(label_set_id, codec="fp32", temperature=1.0)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((3, 2, 2), np.float32),
        np.zeros((3, 1), np.float32),
        np.zeros((0, 10), np.float32),
        np.zeros((3, 10), np.float64),
        np.full((3, 10), np.nan, np.float32),
        np.full((3, 10), np.inf, np.float32),
    ],
)
def test_bad_logits_are_refused_and_leave_nothing(store, bad):
    with pytest.raises(DataError, match="label set"):
        store.publish_labels(bad, **ORIGIN)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_a_memory_map_is_published(store, tmp_path):
    np.save(tmp_path / "logits.npy", logits())
    label_set = store.publish_labels(np.load(tmp_path / "logits.npy", mmap_mode="r"), **ORIGIN)
    np.testing.assert_array_equal(store.logits(label_set.id), logits())


@pytest.mark.parametrize("damage", [lambda content: content[:-4], lambda content: content[:-1] + b"\x55"])
def test_altered_logits_are_seen(store, damage):
    label_set = store.publish_labels(logits(), **ORIGIN)
    path = store.root / "sets" / label_set.id / "logits.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DigestError, match="altered"):
        store.logits(label_set.id)


def test_an_altered_description_is_seen(store):
    label_set = store.publish_labels(logits(), **ORIGIN)
    path = store.root / "sets" / label_set.id / "label_set.json"
    record = json.loads(path.read_text())
    record["identity"]["num_samples"] = 5
    path.write_text(json.dumps(record))
    with pytest.raises(DigestError, match="does not match its id"):
        store.logits(label_set.id)


def test_an_encoding_decodes_to_the_logits(store):
    label_set = store.publish_labels(logits(), **ORIGIN, chunk_bytes=4096)
    encoded = store.encode(label_set.id, codec="fp32", temperature=2.0)
    np.testing.assert_array_equal(read_all(store, encoded.digest), logits())
    assert store.array(encoded.digest).num_chunks == 6


def test_encoding_again_changes_nothing(store):
    label_set = store.publish_labels(logits(), **ORIGIN)
    encoded = store.encode(label_set.id, codec="lp8", temperature=2.0)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    assert LabelStore(store.root).encode(label_set.id, codec="lp8", temperature=2) == encoded
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_num_bytes_is_the_manifest_and_the_messages(store):
    label_set = store.publish_labels(logits(), **ORIGIN, chunk_bytes=4096)
    encoded = store.encode(label_set.id, codec="lp8", temperature=2.0)
    stored = store.array(encoded.digest)
    messages = sum(len(stored.message(index)) for index in range(stored.num_chunks))
    manifest = parse_manifest(stored.manifest, digest=encoded.digest)
    assert encoded.num_bytes == manifest.num_bytes + messages == manifest.num_bytes + manifest.messages_bytes


def test_an_encoding_belongs_to_its_temperature(store):
    label_set = store.publish_labels(logits(), **ORIGIN)
    digests = {store.encode(label_set.id, codec="lp8", temperature=value).digest for value in (1.0, 4.0)}
    assert len(digests) == 2


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(store, temperature):
    label_set = store.publish_labels(logits(), **ORIGIN)
    with pytest.raises(ConfigError, match="temperature"):
        store.encode(label_set.id, codec="fp32", temperature=temperature)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4"])
def test_samples_of_every_type_come_back(store, dtype):
    samples = np.arange(5000).reshape(100, 5, 10).astype(dtype)
    back = read_all(store, store.publish_samples(samples, chunk_bytes=4096))
    np.testing.assert_array_equal(back, samples)
    assert back.dtype == samples.dtype.newbyteorder("<")


def test_the_same_samples_have_the_same_digest(store):
    samples = np.arange(64, dtype=np.float32)
    assert store.publish_samples(samples) == store.publish_samples(samples.copy())


def test_samples_need_not_lie_in_rows(store):
    samples = np.arange(5000, dtype=np.int16).reshape(10, 500).T
    np.testing.assert_array_equal(read_all(store, store.publish_samples(samples, chunk_bytes=4096)), samples)


@pytest.mark.parametrize(
    "bad",
    [np.array(["a"], dtype=object), np.zeros(3, bool), np.zeros(3, complex), np.zeros((0, 2)), np.float32(1)],
)
def test_samples_that_do_not_travel_are_refused(store, bad):
    with pytest.raises(DataError, match="samples"):
        store.publish_samples(np.asarray(bad))


def test_a_truncated_shard_is_seen(store):
    digest = store.publish_samples(np.arange(5000))
    path = store.root / "arrays" / digest.hex() / "chunks.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DigestError, match="truncated"):
        LabelStore(store.root).array(digest)


def test_no_staged_files_remain(store):
    label_set = store.publish_labels(logits(), **ORIGIN)
    store.encode(label_set.id, codec="fp16", temperature=1.0)
    assert list((store.root / ".staging").iterdir()) == []


def _race(root, seed, barrier, results):
    store = LabelStore(root)
    barrier.wait()
    results.put(store.publish_labels(logits(seed=seed), **ORIGIN).id)


def test_of_racing_processes_one_wins_for_all(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path, seed, barrier, results)) for seed in range(3)]
    for racer in racers:
        racer.start()
    ids = {results.get(timeout=30) for _ in racers}
    for racer in racers:
        racer.join()
    winner = LabelStore(tmp_path).find_labels(**ORIGIN)
    assert winner is not None
    assert ids == {winner.id}

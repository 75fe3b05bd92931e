import contextlib
import errno
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from fedstill.clients.labels import LabelCache
from fedstill.clients.labels import cache as cache_module
from fedstill.common.codecs import CODECS
from fedstill.common.errors import DigestError, ExchangeError, NotPublishedError
from fedstill.server.labels import LabelService

CHUNK_ROWS = 16
NUM_CHUNKS = 32


def folder_of(tmp_path, digest):
    return tmp_path / "cache" / digest.hex()


def fresh(tmp_path):
    return LabelCache(tmp_path / "cache", num_attempts=4, backoff_seconds=0.02)


def test_samples_arrive_as_a_read_only_map(service, cache, digest, samples):
    fetched = cache.fetch_array(service.address, digest)
    np.testing.assert_array_equal(fetched.array, samples)
    assert isinstance(fetched.array, np.memmap)
    assert not fetched.array.flags.writeable


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_labels_arrive_decoded(service, store, cache, codec):
    logits = np.random.default_rng(0).normal(0, 3, (600, 10)).astype(np.float32)
    label_set = store.publish_labels(logits, teacher_digest="t", public_digest="p", chunk_bytes=4096)
    encoded = store.encode(label_set.id, codec=codec, temperature=2.0)
    rows = cache.fetch_array(service.address, encoded.digest).array
    if codec == "hard":
        np.testing.assert_array_equal(rows.argmax(1), logits.argmax(1))
    else:
        expected = logits - logits.max(1, keepdims=True)
        np.testing.assert_allclose(
            rows - rows.max(1, keepdims=True), expected, atol=3 if codec == "int4" else 0.2
        )


def test_what_a_node_alone_would_move_is_what_the_store_says(service, store, cache):
    logits = np.random.default_rng(0).normal(0, 3, (600, 10)).astype(np.float32)
    label_set = store.publish_labels(logits, teacher_digest="t", public_digest="p", chunk_bytes=4096)
    encoded = store.encode(label_set.id, codec="lp8", temperature=2.0)
    fetched = cache.fetch_array(service.address, encoded.digest)
    assert fetched.manifest_bytes + fetched.chunk_bytes == encoded.num_bytes == fetched.wire_bytes


def test_a_hit_moves_nothing(service, cache, digest, calls):
    first = cache.fetch_array(service.address, digest)
    num_calls = len(calls)
    again = cache.fetch_array(service.address, digest)
    assert again.wire_bytes == 0
    assert (again.manifest_bytes, again.chunk_bytes) == (first.manifest_bytes, first.chunk_bytes)
    assert len(calls) == num_calls


def test_a_restarted_program_needs_no_service(service, cache, digest, samples, tmp_path):
    cache.fetch_array(service.address, digest)
    service.stop()
    fetched = fresh(tmp_path).fetch_array(service.address, digest)
    np.testing.assert_array_equal(fetched.array, samples)


def test_a_broken_stream_resumes_where_it_broke(line, cache, digest, samples):
    line.cut_after, line.num_cuts = 500_000, 2
    fetched = cache.fetch_array(line.address, digest)
    np.testing.assert_array_equal(fetched.array, samples)
    assert line.num_cuts == 0
    assert fetched.wire_bytes == fetched.manifest_bytes + fetched.chunk_bytes


def at_chunk(monkeypatch, index, event):
    """Lets something happen while the given chunk is being kept, once."""
    decode, happened = cache_module.decode_chunk, []

    def decode_and_happen(manifest, current, payload):
        if current == index and not happened:
            happened.append(current)
            event()
        return decode(manifest, current, payload)

    monkeypatch.setattr(cache_module, "decode_chunk", decode_and_happen)


def test_a_service_that_restarts_is_found_again(store, service, tmp_path, cache, calls, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 256, size=(32, 1_048_576), dtype=np.uint8)
    digest = store.publish_samples(rows)
    second = LabelService(
        store,
        port=int(service.address.rpartition(":")[2]),
        uploads_dir=tmp_path,
        on_call=lambda *call: calls.append(call),
    )

    def restart():
        service.stop(0)
        second.start()

    at_chunk(monkeypatch, 3, restart)
    with contextlib.ExitStack() as stack:
        stack.callback(second.stop)
        fetched = cache.fetch_array(service.address, digest)
    np.testing.assert_array_equal(fetched.array, rows)
    assert [method for method, *_ in calls].count("StreamChunks") == 2


def test_a_flipped_byte_is_seen_and_its_chunk_fetched_again(line, cache, digest, samples):
    line.num_flips = 1
    fetched = cache.fetch_array(line.address, digest)
    assert line.num_flips == 0
    np.testing.assert_array_equal(fetched.array, samples)
    assert fetched.wire_bytes > fetched.manifest_bytes + fetched.chunk_bytes


def test_a_chunk_that_stays_bad_is_named(line, cache, digest):
    line.num_flips = 1_000
    with pytest.raises(DigestError, match=f"chunk {300 // CHUNK_ROWS}: .*altered"):
        cache.fetch_array(line.address, digest)


def test_a_store_altered_behind_its_back_is_seen(service, store, cache, digest):
    path = store.root / "arrays" / digest.hex() / "chunks.bin"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigestError, match="chunk 0"):
        cache.fetch_array(service.address, digest)


def test_a_manifest_of_another_digest_is_refused(service, store, cache, digest):
    other = hashlib.sha256(b"other").digest()
    folder = store.root / "arrays"
    shutil.copytree(folder / digest.hex(), folder / other.hex())
    with pytest.raises(ExchangeError, match="altered"):
        cache.fetch_array(service.address, other)


def test_an_array_that_is_not_published_is_named(service, cache):
    with pytest.raises(NotPublishedError, match=f"{service.address}.*not in this label store"):
        cache.fetch_array(service.address, bytes(32))


def test_a_digest_of_wrong_length_is_refused(cache):
    with pytest.raises(ExchangeError, match="32 bytes"):
        cache.fetch_array("127.0.0.1:1", b"short")


def test_a_service_out_of_reach_is_named_with_its_address(cache, digest):
    with pytest.raises(ExchangeError, match=r"127\.0\.0\.1:9 .*check that it runs"):
        cache.fetch_array("127.0.0.1:9", digest)


def test_a_line_that_breaks_for_ever_ends_with_an_error(line, cache, digest):
    line.cut_after, line.num_cuts = 20_000, 1_000
    with pytest.raises(ExchangeError, match=line.address):
        cache.fetch_array(line.address, digest)


def test_a_silent_line_ends_with_an_error(line, cache, digest):
    cache.fetch_array(line.address, digest)
    line.silent.set()
    shutil.rmtree(cache._root)
    with pytest.raises(ExchangeError, match=line.address):
        cache.fetch_array(line.address, digest, timeout_seconds=0.2)


def test_a_stream_that_falls_silent_is_resumed(line, store, cache, calls, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 256, size=(32, 1_048_576), dtype=np.uint8)
    digest = store.publish_samples(rows)
    at_chunk(monkeypatch, 3, lambda: (line.silent.set(), threading.Timer(0.3, line.silent.clear).start()))
    fetched = cache.fetch_array(line.address, digest, timeout_seconds=0.2)
    np.testing.assert_array_equal(fetched.array, rows)
    assert [method for method, *_ in calls].count("StreamChunks") >= 2


def test_after_a_failure_only_lacking_chunks_are_fetched(service, line, cache, digest, samples, tmp_path):
    line.num_flips = 1_000
    with pytest.raises(DigestError):
        cache.fetch_array(line.address, digest)
    restarted = fresh(tmp_path)
    fetched = restarted.fetch_array(service.address, digest)
    restarted.close()
    np.testing.assert_array_equal(fetched.array, samples)
    assert fetched.wire_bytes < 0.5 * fetched.chunk_bytes


def test_a_torn_partial_is_cut_back_to_what_is_whole(service, line, cache, digest, samples, tmp_path):
    line.num_flips = 1_000
    with pytest.raises(DigestError):
        cache.fetch_array(line.address, digest)
    part = folder_of(tmp_path, digest) / "rows.part"
    content = bytearray(part.read_bytes())
    content[-70_000] ^= 1
    part.write_bytes(content)
    np.testing.assert_array_equal(cache.fetch_array(service.address, digest).array, samples)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\xff", lambda _: b""]
)
@pytest.mark.parametrize("name", ["rows.npy", "rows.crc32c", "manifest.pb"])
def test_damaged_cache_files_are_fetched_again(service, cache, digest, samples, tmp_path, name, damage):
    cache.fetch_array(service.address, digest)
    path = folder_of(tmp_path, digest) / name
    path.write_bytes(damage(path.read_bytes()))
    restarted = fresh(tmp_path)
    fetched = restarted.fetch_array(service.address, digest)
    restarted.close()
    np.testing.assert_array_equal(fetched.array, samples)
    assert fetched.wire_bytes > 0


def test_a_lost_file_is_fetched_again(service, cache, digest, samples, tmp_path):
    cache.fetch_array(service.address, digest)
    (folder_of(tmp_path, digest) / "rows.npy").unlink()
    np.testing.assert_array_equal(cache.fetch_array(service.address, digest).array, samples)


def test_too_little_space_is_said_before_anything_comes(service, cache, digest, calls, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1_000)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ExchangeError, match=r"free space.*exchange\.cache_dir"):
        cache.fetch_array(service.address, digest)
    assert [method for method, *_ in calls] == ["GetManifest"]


def test_a_disk_that_fills_up_leaves_nothing_torn(service, cache, digest, samples, tmp_path, monkeypatch):
    write, written = cache_module._write, []

    def write_until_full(file, content):
        written.append(len(content))
        if len(written) == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, content)

    monkeypatch.setattr(cache_module, "_write", write_until_full)
    with pytest.raises(ExchangeError, match=r"no space left.*exchange\.cache_dir"):
        cache.fetch_array(service.address, digest)
    assert {path.name for path in folder_of(tmp_path, digest).iterdir()} == {"lock", "manifest.pb"}
    np.testing.assert_array_equal(cache.fetch_array(service.address, digest).array, samples)


def test_a_folder_that_cannot_be_written_is_an_error_in_words(service, digest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExchangeError, match=r"cannot use .*exchange\.cache_dir"):
        LabelCache(tmp_path / "file" / "cache").fetch_array(service.address, digest)


def _fetch(root, address, digest, barrier, results):
    cache = LabelCache(root, num_attempts=4, backoff_seconds=0.02)
    if barrier is not None:
        barrier.wait()
    fetched = cache.fetch_array(address, digest)
    results.put((fetched.wire_bytes, hashlib.sha256(fetched.array.tobytes()).hexdigest()))
    results.close()
    results.join_thread()
    cache.close()


@pytest.fixture
def spawn():
    context = multiprocessing.get_context("spawn")
    processes = []

    def start(*arguments):
        process = context.Process(target=_fetch, args=arguments, daemon=True)
        processes.append(process)
        process.start()
        return process

    start.context = context
    yield start
    for process in processes:
        process.kill()
        process.join()
        process.close()


def test_processes_of_one_machine_download_once(service, digest, samples, tmp_path, spawn, calls):
    barrier, results = spawn.context.Barrier(2), spawn.context.Queue()
    for _ in range(2):
        spawn(tmp_path / "cache", service.address, digest, barrier, results)
    answers = [results.get(timeout=30) for _ in range(2)]
    assert {content for _, content in answers} == {hashlib.sha256(samples.tobytes()).hexdigest()}
    assert sorted(wire_bytes > 0 for wire_bytes, _ in answers) == [False, True]
    assert [method for method, *_ in calls].count("StreamChunks") == 1


def test_a_killed_downloader_leaves_its_chunks_and_no_lock(
    service, line, cache, digest, samples, tmp_path, spawn
):
    line.slow_after = 1_000_000
    victim = spawn(tmp_path / "cache", line.address, digest, None, None)
    crcs = folder_of(tmp_path, digest) / "rows.crc32c"
    deadline = time.monotonic() + 20
    while (not crcs.exists() or crcs.stat().st_size < 4 * 10) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    fetched = cache.fetch_array(service.address, digest)
    np.testing.assert_array_equal(fetched.array, samples)
    assert fetched.wire_bytes < (NUM_CHUNKS - 9) * 65_600


def test_a_forked_child_opens_connections_of_its_own(service, cache, store, digest, tmp_path):
    cache.fetch_array(service.address, digest)
    parents = cache._channels.get(service.address)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"y" if cache._channels.get(service.address) is not parents else b"n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"y"
    os.close(reader)
    os.close(writer)


def published_rows(store, num_arrays, num_rows=400):
    rng = np.random.default_rng(7)
    return [
        store.publish_samples(rng.integers(0, 256, (num_rows, 100), dtype=np.uint8), chunk_bytes=8192)
        for _ in range(num_arrays)
    ]


def holds(tmp_path, digest):
    return (folder_of(tmp_path, digest) / "rows.npy").exists()


def test_what_was_used_longest_ago_makes_room(service, store, tmp_path):
    first, second, third = published_rows(store, 3)
    cache = LabelCache(tmp_path / "cache", max_bytes=90_000)
    for used, digest in enumerate((first, second, first), start=1):
        cache.fetch_array(service.address, digest)
        os.utime(folder_of(tmp_path, digest) / "manifest.pb", (used, used))
    kept = cache.fetch_array(service.address, first).array
    cache.fetch_array(service.address, third)
    assert [holds(tmp_path, digest) for digest in (first, second, third)] == [True, False, True]
    assert len(kept) == 400
    cache.close()


def test_an_array_larger_than_the_bound_is_kept_until_the_next(service, store, tmp_path):
    (small,) = published_rows(store, 1)
    (large,) = published_rows(store, 1, num_rows=2000)
    cache = LabelCache(tmp_path / "cache", max_bytes=90_000)
    cache.fetch_array(service.address, large)
    assert holds(tmp_path, large)
    rows = cache.fetch_array(service.address, large).array
    cache.fetch_array(service.address, small)
    assert not holds(tmp_path, large)
    assert rows[-1].shape == (100,)  # what was mapped stays readable
    cache.close()


def test_an_array_that_another_process_fetches_is_left_alone(service, store, tmp_path):
    first, second = published_rows(store, 2)
    cache = LabelCache(tmp_path / "cache", max_bytes=50_000)
    cache.fetch_array(service.address, first)
    with cache_module._locked(folder_of(tmp_path, first) / "lock"):
        cache.fetch_array(service.address, second)
    assert holds(tmp_path, first)
    cache.close()

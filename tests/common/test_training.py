"""The training loop, and weights on disk."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from fedstill.common.errors import CheckpointError, ConfigError, DataError
from fedstill.common.training import (
    Optimisation,
    choose_device,
    count_bytes,
    count_parameters,
    deterministic,
    digest_weights,
    fit,
    load_weights,
    make_optimiser,
    predict_logits,
    save_weights,
    shuffled_batches,
    steps_per_epoch,
)

OPTIMISATION = Optimisation(learning_rate=0.02, weight_decay=0.01)


def build(seed=0, hidden=16):
    with deterministic(seed, num_threads=1):
        return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, 3))


def draw_samples(num_samples=90):
    rng = np.random.default_rng(0)
    y = np.arange(num_samples) % 3
    x = np.eye(4)[y] * 3 + rng.normal(0, 1, (num_samples, 4))
    return x.astype(np.float32), y


def cross_entropy(model, batch):
    return (functional.cross_entropy(model(batch[0]), batch[1]),)


def train(model, *, seed=0, num_steps=40, **options):
    x, y = draw_samples()
    batches = (
        (torch.from_numpy(x[index]), torch.from_numpy(y[index]))
        for index in shuffled_batches(len(y), 16, np.random.default_rng(seed))
    )
    with deterministic(seed, num_threads=1):
        return fit(
            model,
            batches,
            options.pop("loss_fn", cross_entropy),
            loss_weights=options.pop("loss_weights", (1.0,)),
            num_steps=num_steps,
            optimisation=options.pop("optimisation", OPTIMISATION),
            **options,
        )


def test_training_learns():
    model = build()
    train(model, num_steps=150)
    x, y = draw_samples()
    assert (predict_logits(model, x).argmax(1) == y).mean() > 0.95


def test_the_same_seed_gives_the_same_bits():
    first, second = build(), build()
    assert train(first) == train(second)
    assert digest_weights(first) == digest_weights(second)


def test_another_seed_gives_other_weights():
    first, second = build(), build()
    train(first, seed=1)
    train(second, seed=2)
    assert digest_weights(first) != digest_weights(second)


def test_a_trained_model_is_left_in_evaluation_mode():
    model = build()
    train(model, num_steps=1)
    assert not model.training


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5, 6, 10])
def test_few_steps_are_enough_to_train(num_steps):
    model = build()
    (loss,) = train(model, num_steps=num_steps)
    assert np.isfinite(loss)
    assert digest_weights(model) != digest_weights(build())


def test_on_step_counts_every_step():
    seen = []
    train(build(), num_steps=5, on_step=lambda step: seen.append(step) is not None)
    assert seen == [1, 2, 3, 4, 5]


def test_on_step_ends_training():
    seen = []
    train(build(), on_step=lambda step: seen.append(step) or step == 3)
    assert seen == [1, 2, 3]


def test_a_term_without_weight_does_not_change_the_weights():
    def two_terms(model, batch):
        logits = model(batch[0])
        return functional.cross_entropy(logits, batch[1]), logits.square().mean()

    first, second = build(), build()
    train(first)
    train(second, loss_fn=two_terms, loss_weights=(1.0, 0.0))
    assert digest_weights(first) == digest_weights(second)


def test_terms_are_reported_unweighted_over_the_last_tenth():
    values = itertools.count(1)

    def counting(model, batch):
        return (model(batch[0]).sum() * 0 + next(values),)

    assert train(build(), num_steps=20, loss_fn=counting, loss_weights=(0.5,)) == (19.5,)


def test_deterministic_puts_threads_and_generator_back():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with deterministic(3, num_threads=threads + 1):
        assert torch.get_num_threads() == threads + 1
        torch.rand(5)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_deterministic_puts_them_back_after_an_error():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), deterministic(3, num_threads=threads + 1):
        torch.rand(5) / (1 // 0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@settings(deadline=None)
@given(num_samples=st.integers(1, 50), batch_size=st.integers(1, 20), seed=st.integers(0, 100))
def test_every_epoch_covers_each_sample_once(num_samples, batch_size, seed):
    batches = shuffled_batches(num_samples, batch_size, np.random.default_rng(seed))
    for _ in range(2):
        epoch = list(itertools.islice(batches, steps_per_epoch(num_samples, batch_size)))
        assert sorted(np.concatenate(epoch)) == list(range(num_samples))


def test_epochs_differ_in_order():
    batches = shuffled_batches(50, 50, np.random.default_rng(0))
    assert not np.array_equal(next(batches), next(batches))


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(DataError, match="expected samples to train on, got none"):
        next(shuffled_batches(0, 8, np.random.default_rng(0)))


def test_predictions_do_not_depend_on_the_batch_size():
    model, (x, _) = build(), draw_samples()
    np.testing.assert_allclose(predict_logits(model, x, batch_size=7), predict_logits(model, x), atol=1e-6)


def test_predicting_leaves_the_mode_as_it_was():
    model, (x, _) = build(), draw_samples()
    for mode in (True, False):
        model.train(mode)
        predict_logits(model, x)
        assert model.training is mode


def test_predicting_reads_a_memory_map(tmp_path):
    model, (x, _) = build(), draw_samples()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(predict_logits(model, mapped), predict_logits(model, x))


def test_digest_changes_with_one_value():
    model = build()
    before = digest_weights(model)
    with torch.no_grad():
        model[0].bias[0] += 1e-6
    assert digest_weights(model) != before


def test_digest_is_that_of_values_and_not_of_memory_layout():
    first, second = build(), build()
    second[0].weight.data = second[0].weight.data.t().contiguous().t()
    assert digest_weights(first) == digest_weights(second)


def test_sizes_are_counted():
    assert count_parameters(build(hidden=2)) == 4 * 2 + 2 + 2 * 3 + 3
    assert count_bytes(build(hidden=2)) == 4 * (4 * 2 + 2 + 2 * 3 + 3)


def test_weights_come_back_bit_by_bit(tmp_path):
    written, read = build(seed=1), build(seed=2)
    save_weights(written, tmp_path / "weights.safetensors")
    load_weights(read, tmp_path / "weights.safetensors")
    assert digest_weights(read) == digest_weights(written)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_weights(build(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def other_shape(path):
    save_weights(build(hidden=8), path)


def lacking(path):
    save_file({"0.weight": torch.zeros(16, 4)}, path)


def surplus(path):
    save_file(build().state_dict() | {"more": torch.zeros(1)}, path)


def truncated(path):
    save_weights(build(), path)
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot read weights .*: .*such file"),
        (lambda path: path.mkdir(), "weights"),
        (empty, "is no valid safetensors file"),
        (truncated, "is no valid safetensors file"),
        (other_shape, r"0.bias should be \(16,\), the file has \(8,\) \(3 of 4 tensors differ\)"),
        (lacking, r"0.bias should be \(16,\), the file has nothing \(3 of 4"),
        (surplus, r"more should be absent, the file has \(1,\) \(1 of 5"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path, write, message):
    path, model = tmp_path / "weights.safetensors", build()
    before = digest_weights(model)
    write(path)
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, path)
    assert digest_weights(model) == before


def test_auto_is_a_gpu_where_there_is_one():
    assert choose_device("auto", key="teacher.device") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu", key="teacher.device") == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"teacher\.device is cuda and torch sees no GPU"):
        choose_device("cuda", key="teacher.device")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_to_the_same_within_tolerance():
    x, _ = draw_samples()
    on_cpu, on_gpu = build(), build()
    for model, device in ((on_cpu, "cpu"), (on_gpu, "cuda")):
        model[2].p = 0.0  # dropout draws from each device's own stream
        train(model, optimisation=Optimisation(0.02, 0.01, device))
    np.testing.assert_allclose(predict_logits(on_gpu, x), predict_logits(on_cpu, x), rtol=1e-3, atol=1e-3)
    assert all(value.device.type == "cpu" for value in on_gpu.state_dict().values())


def one_step(**options):
    """The change of a weight of 2 by a gradient of 3 in each of two steps, learning rate .1."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimiser, schedule = make_optimiser([weight], Optimisation(0.1, **options), num_steps=10)
    values = []
    for _ in range(2):
        weight.grad = torch.tensor([3.0])
        optimiser.step()
        schedule.step()
        values.append(weight.item())
    return values


def test_sgd_is_what_it_is_by_hand():
    plain = {"optimiser": "sgd", "schedule": "constant"}
    assert one_step(weight_decay=0.0, **plain) == pytest.approx([1.7, 1.4])
    assert one_step(weight_decay=0.5, **plain) == pytest.approx([1.6, 1.6 - 0.1 * (3 + 0.5 * 1.6)])
    assert one_step(weight_decay=0.0, momentum=0.5, **plain) == pytest.approx([1.7, 1.7 - 0.1 * 4.5])


def test_weight_decay_is_decoupled_with_adamw_only():
    coupled, decoupled = (
        one_step(weight_decay=0.5, optimiser=name, schedule="constant")[0] for name in ("adam", "adamw")
    )
    assert coupled == pytest.approx(1.9)
    assert decoupled == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1)


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize(
    ("schedule", "first", "middle", "last"),
    [("constant", 0.1, 0.1, 0.1), ("cosine", 0.1, 0.05, 0.0), ("one-cycle", 0.004, 0.0673, 4e-7)],
)
def test_schedules_go_from_where_to_where(optimiser, schedule, first, middle, last):
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    settings = Optimisation(0.1, 0.0, optimiser=optimiser, schedule=schedule)
    made, rates = make_optimiser([weight], settings, num_steps=100), []
    for _ in range(100):
        rates.append(made[0].param_groups[0]["lr"])
        made[0].step()
        made[1].step() if len(rates) < 100 else None
    assert (rates[0], rates[50], rates[-1]) == pytest.approx((first, middle, last), abs=2e-3)
    if optimiser == "sgd":
        assert made[0].param_groups[0]["momentum"] == 0.0

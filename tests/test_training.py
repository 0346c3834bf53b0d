import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conftest import sections
from laddernet.errors import TrainingError
from laddernet.ladder import Ladder
from laddernet.loop import Callback
from laddernet.networks import mlp
from laddernet.sampling import Batches, Shuffled
from laddernet.training import (
    LinearDecay,
    TrainingConfig,
    TrainingInterrupted,
    Validation,
    cpu_capabilities,
    decay_of,
    has_fast_bfloat16,
    make_optimizer,
    resolve_precision,
    step_context,
    steps_per_epoch,
    tensor_cores,
    train,
    uses_compiled_kernels,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(rows=50, labeled=12, variant="full", **settings):
    torch.manual_seed(0)
    x = torch.randn(rows, 4)
    y = (x[:labeled].sum(dim=1) > 0).long()
    ladder = Ladder(
        mlp([4, 8, 2], generator=generator()),
        variant=variant,
        denoising_weights=settings.pop("weights", (1, 1, 0.1)),
        generator=generator(),
        **settings,
    )
    return ladder, x, x[:labeled], y


def run(config=None, validate=None, callback=None, **settings):
    ladder, *data = problem(**settings)
    config = config or TrainingConfig(epochs=4, batch_size=10)
    return ladder, train(ladder, *data, config, generator=generator(), validate=validate, callback=callback)


@given(st.integers(1, 60), st.integers(2, 20), st.integers(0, 100))
def test_a_pass_holds_each_row_at_most_once(rows, batch_size, seed):
    per_epoch = steps_per_epoch(rows, batch_size)
    stream = Batches(rows, batch_size, generator(seed))
    for _ in range(3):
        one_pass = torch.cat(list(itertools.islice(stream, per_epoch))).tolist()
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(range(rows))
        assert len(one_pass) == (rows if rows < batch_size else rows - rows % batch_size)


def test_rows_dropped_from_one_pass_come_in_another():
    stream = Batches(25, 10, generator())
    seen = set(torch.cat(list(itertools.islice(stream, 40))).tolist())
    assert seen == set(range(25))


@given(st.integers(1, 3000), st.integers(0, 100))
def test_an_order_that_takes_no_memory_has_each_row_once(rows, seed):
    places = [Shuffled(rows, generator(seed))[start : start + 700] for start in range(0, rows, 700)]
    assert sorted(torch.cat(places).tolist()) == list(range(rows))


def test_such_orders_are_as_good_as_random():
    """Over many of them every row comes equally often in each tenth of the places, and after every other one."""
    orders = torch.stack([Shuffled(100, generator(seed))[:] for seed in range(2000)])
    tenths = torch.zeros(100, 10).index_put_(
        (orders, torch.arange(100).expand_as(orders) // 10), torch.ones(1), accumulate=True
    )
    assert (tenths - 200).abs().max() < 5.5 * 200**0.5
    pairs = torch.zeros(100, 100).index_put_((orders[:, :-1], orders[:, 1:]), torch.ones(1), accumulate=True)
    expected = 2000 / 100
    chi_square = float(((pairs - expected) ** 2 / expected).sum()) - 100 * expected  # a row is not after itself
    assert abs(chi_square - 9900) < 6 * (2 * 9900) ** 0.5


def test_many_rows_are_shuffled_without_a_list_of_them(monkeypatch):
    monkeypatch.setattr("laddernet.sampling.MOST_SHUFFLED", 20)
    stream = Batches(25, 10, generator())
    seen = [batch.tolist() for batch in itertools.islice(stream, 40)]
    assert {row for batch in seen for row in batch} == set(range(25))
    assert all(len({*one, *other}) == 20 for one, other in zip(seen[::2], seen[1::2], strict=True))
    resumed = Batches(25, 10, generator())
    half = list(itertools.islice(resumed, 7))
    other = Batches(25, 10, generator(9))
    other.load_state_dict(resumed.state_dict())
    assert [batch.tolist() for batch in [*half, *itertools.islice(other, 1)]] == seen[:8]


def test_passes_are_shuffled_anew():
    first, second = itertools.islice(Batches(30, 30, generator()), 2)
    assert first.tolist() != second.tolist()
    assert sorted(first.tolist()) == sorted(second.tolist())


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_rate_is_constant_then_falls_in_equal_steps_to_zero(steps, start):
    decay = LinearDecay(steps, start)
    factors = [decay(step) for step in range(steps + 1)]
    constant = [factor for step, factor in enumerate(factors) if step <= start * steps]
    assert constant == [pytest.approx(1.0)] * len(constant)
    assert factors[-1] == (0 if start < 1 else 1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))
    falls = [a - b for a, b in itertools.pairwise(factors[len(constant) :])]
    assert all(fall == pytest.approx(falls[0]) for fall in falls)


def test_history_has_a_record_an_epoch():
    ladder, history = run()
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    for record in history:
        denoising = record["denoising_costs"]
        weighted = sum(w * c for w, c in zip(ladder.denoising_weights, denoising, strict=True))
        assert record["cost"] == pytest.approx(record["supervised_cost"] + weighted, rel=1e-5)
        assert record["seconds"] > 0
        assert "validation_error" not in record
    assert history[-1]["cost"] < history[0]["cost"]


def test_denoising_costs_without_a_weight_are_none():
    _, history = run(variant="gamma")
    assert [cost is None for cost in history[0]["denoising_costs"]] == [True, True, False]


@pytest.mark.parametrize("variant", ["full", "gamma", "bottom", "baseline"])
def test_statistics_end_exact(variant):
    ladder, x, *labeled = problem(variant=variant)
    train(ladder, x, *labeled, TrainingConfig(epochs=2, batch_size=10), generator=generator())
    z_pre = sections(ladder)[0].map(x)
    torch.testing.assert_close(sections(ladder)[0].rung.statistics.mean, z_pre.mean(dim=0))
    torch.testing.assert_close(sections(ladder)[0].rung.statistics.var, z_pre.var(dim=0, correction=0))


def test_the_seed_fixes_everything():
    (first, first_history), (second, second_history) = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert [r["cost"] for r in first_history] == [r["cost"] for r in second_history]


@pytest.mark.parametrize(("labeled", "batch_size", "copies"), [(12, 50, 4), (12, 12, 1), (12, 10, 1), (5, 11, 2)])
def test_few_labelled_rows_are_repeated_to_a_batch_each_with_its_own_noise(labeled, batch_size, copies):
    ladder, x, x_labeled, y = problem(labeled=labeled)
    batches_seen, noisy = [], []

    def corrupt(clean, std, generator):
        noisy.append(clean + std * torch.randn(clean.shape, generator=generator))
        return noisy[-1]

    ladder.corruption = corrupt
    ladder.register_forward_pre_hook(lambda module, inputs: batches_seen.append(inputs[0]))
    config = TrainingConfig(epochs=1, batch_size=batch_size, repeat_labels=True)
    train(ladder, x, x_labeled, y, config, generator=generator())
    for batch in batches_seen:
        assert len(batch) == copies * min(labeled, batch_size)
        assert set(batch.unique(dim=0, return_counts=True)[1].tolist()) == {copies}
    assert len(noisy[0].unique(dim=0)) == len(noisy[0])


@pytest.mark.parametrize("kernels", ["compiled", "torch"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(precision, kernels):
    ladder, x, x_labeled, y = problem(rows=400, labeled=60)
    config = TrainingConfig(epochs=15, batch_size=20, precision=precision, learning_rate=0.01, kernels=kernels)
    train(ladder, x, x_labeled, y, config, generator=generator())
    right = (ladder.predict(x).argmax(dim=1) == (x.sum(dim=1) > 0)).float().mean()
    assert right > 0.9


class Additive:
    """Noise that takes the same numbers with kernels and without."""

    def __call__(self, clean, std, generator):
        return clean + self.draw(clean, std, generator)

    def draw(self, like, std, generator):
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype) * std


def test_a_run_with_kernels_is_that_without_but_for_rounding():
    results = []
    for kernels in ("compiled", "torch"):
        ladder, x, x_labeled, y = problem(corruption=Additive())
        ladder.double()
        config = TrainingConfig(epochs=3, batch_size=10, kernels=kernels)
        with torch.no_grad():  # at the start some gradients are 0 but for rounding, which Adam makes steps of
            for parameter in ladder.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator(1))
        history = train(ladder, x.double(), x_labeled.double(), y, config, generator=generator())
        results.append((ladder, history))
    (ours, history), (theirs, expected) = results
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert [r["cost"] for r in history] == pytest.approx([r["cost"] for r in expected], rel=1e-9)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_seed_fixes_a_run_with_kernels(precision):
    config = TrainingConfig(epochs=2, batch_size=10, kernels="compiled", precision=precision)
    (first, _), (again, _) = run(config), run(config)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_leaves_nothing_of_the_kernels_behind():
    ladder, *data = problem()
    config = TrainingConfig(epochs=1, batch_size=10, kernels="compiled", precision="bfloat16")
    optimizer = make_optimizer(ladder, config)
    with step_context(ladder, optimizer, config, steps=5) as autocast:
        assert ladder.fused
        assert optimizer.kernels is not None
        assert len(optimizer.low) == 4
        assert sections(ladder)[0].map.low.dtype == torch.bfloat16
        with autocast():
            assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    assert not ladder.fused
    assert optimizer.kernels is None
    assert not optimizer.low
    assert sections(ladder)[0].map.low is None
    train(ladder, *data, config, generator=generator(), optimizer=optimizer)
    assert not ladder.fused
    assert sections(ladder)[0].map.low is None


@pytest.mark.parametrize(
    ("kernels", "steps", "variant", "fused", "expected"),
    [
        ("auto", 100, "full", False, False),
        ("auto", 400_000, "full", False, True),
        ("auto", 400_000, "baseline", False, False),
        ("auto", 4_000_000, "baseline", False, True),
        ("auto", 100, "full", True, True),
        ("compiled", 1, "full", False, True),
        ("torch", 400_000, "full", True, False),
    ],
)
def test_kernels_are_for_runs_that_gain_by_them(kernels, steps, variant, fused, expected):
    ladder, *_ = problem(variant=variant)
    ladder.fused = fused
    config = TrainingConfig(kernels=kernels, batch_size=10)
    assert uses_compiled_kernels(ladder, config, steps) == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, False),
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, True),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "AMD EPYC"}, True),
        ({"amx_bf16": False, "avx512_bf16": False, "cpu_name": "AMD EPYC"}, False),
    ],
)
def test_bfloat16_is_fast_on_some_processors(capabilities, expected):
    assert has_fast_bfloat16(capabilities) == expected


def test_auto_is_float32_for_small_ladders_and_what_is_fast_for_large_ones():
    small, large = Ladder(mlp([4, 8, 2])), Ladder(mlp([400, 800, 2]))
    assert resolve_precision("auto", small) == "float32"
    assert resolve_precision("auto", large) == ("bfloat16" if has_fast_bfloat16(cpu_capabilities()) else "float32")
    assert resolve_precision("bfloat16", small) == "bfloat16"
    assert resolve_precision("auto", large.double()) == "float64"
    with pytest.raises(ValueError, match="precision='tf32' is for CUDA devices"):
        resolve_precision("tf32", small)


def test_a_cosine_falls_from_one_to_nothing_after_its_start():
    decay = decay_of(TrainingConfig(decay="cosine", decay_start=0.5), 100)
    assert [decay(step) for step in (0, 50, 100, 120)] == pytest.approx([1, 1, 0, 0])
    assert decay(75) == pytest.approx(0.5)
    assert decay(60) == pytest.approx((1 + math.cos(math.pi * 0.2)) / 2)
    assert decay_of(TrainingConfig(decay_start=0.5), 100)(60) == pytest.approx(0.8)


def test_a_run_ends_with_the_mean_of_the_last_epochs_weights():
    class Weights(Callback):
        def __init__(self, ladder):
            self.ladder, self.seen = ladder, []

        def on_epoch_end(self, record):
            self.seen.append([parameter.detach().clone() for parameter in self.ladder.parameters()])

    ladder, *rows = problem()
    watched = Weights(ladder)
    config = TrainingConfig(epochs=5, batch_size=10, averaged_epochs=3)
    train(ladder, *rows, config, generator=torch.Generator().manual_seed(0), callback=watched)
    for parameter, *values in zip(ladder.parameters(), *watched.seen[2:], strict=True):
        torch.testing.assert_close(parameter.detach(), torch.stack(values).mean(0))
        assert not torch.equal(parameter, values[-1])


@pytest.mark.parametrize(
    ("kernels", "precision"), [("torch", "float32"), ("compiled", "float32"), ("compiled", "bfloat16")]
)
@pytest.mark.parametrize("which", ["none", "encoder", "all"])
def test_projected_weights_stay_at_unit_length(which, kernels, precision):
    ladder, *rows = problem(weight_normalization=which)
    config = TrainingConfig(epochs=3, batch_size=10, learning_rate=0.02, kernels=kernels, precision=precision)
    train(ladder, *rows, config, generator=torch.Generator().manual_seed(0))
    lengths = {
        part: [
            weight.norm(dim=1)
            for name, weight in ladder.named_parameters()
            if name.startswith(part) and "weight" in name
        ]
        for part in ("network", "decoder")
    }
    for part, held in (("network", which != "none"), ("decoder", which == "all")):
        at_one = [torch.allclose(length, torch.ones_like(length), atol=1e-5) for length in lengths[part]]
        assert len(at_one) > 1
        assert all(at_one) == held


@pytest.mark.parametrize(("precision", "expected"), [("tf32", "tf32"), ("float32", "ieee"), ("bfloat16", "ieee")])
def test_tensor_cores_are_for_float32_products_where_asked_for_alone(precision, expected):
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with tensor_cores(precision):
            assert matmul.fp32_precision == expected
        assert matmul.fp32_precision == "ieee"
    finally:
        matmul.fp32_precision = before


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, epochs, steps_per_epoch):
        self.events.append(("begin", epochs, steps_per_epoch))

    def on_step_end(self):
        self.events.append("step")

    def on_epoch_end(self, record):
        self.events.append(("epoch", record["epoch"]))

    def on_train_end(self):
        self.events.append("end")


def test_callbacks_are_called_in_order():
    recorder = Recorder()
    run(TrainingConfig(epochs=2, batch_size=20), callback=recorder)
    one_epoch = ["step", "step"]
    assert recorder.events == [("begin", 2, 2), *one_epoch, ("epoch", 1), *one_epoch, ("epoch", 2), "end"]


class Threads(Callback):
    def __init__(self):
        self.seen = set()

    def on_step_end(self):
        self.seen.add(torch.get_num_threads())


@pytest.mark.parametrize(("width", "expected"), [(8, {1}), (60_000, {2})])
def test_small_ladders_train_on_one_thread(width, expected):
    torch.set_num_threads(2)
    try:
        threads = Threads()
        ladder = Ladder(mlp([4, width, 2]), variant="baseline")
        x = torch.randn(20, 4)
        config = TrainingConfig(epochs=1, batch_size=20)
        train(ladder, x, x, torch.arange(20) % 2, config, generator=generator(), callback=threads)
        assert threads.seen == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("variant", ["full", "bottom", "baseline"])
def test_validation_sees_statistics_of_clean_rows(variant):
    """Also where training itself runs no clean stream, and so knows the noisy rows' statistics alone."""
    ladder, x, *labeled = problem(variant=variant)
    seen = []

    def validate(ladder):
        z_pre = sections(ladder)[0].map(x)
        torch.testing.assert_close(sections(ladder)[0].rung.statistics.var, z_pre.var(dim=0, correction=0))
        seen.append(True)
        return Validation(0.5)

    config = TrainingConfig(epochs=2, batch_size=10)
    train(ladder, x, *labeled, config, generator=generator(), validate=validate)
    assert len(seen) == 2


def test_early_stopping_goes_back_to_the_best_epoch():
    errors = iter([0.5, 0.2, 0.3, 0.2, 0.1])
    states = []

    def validate(ladder):
        states.append(sections(ladder)[0].map.weight.detach().clone())
        return Validation(next(errors))

    ladder, history = run(TrainingConfig(epochs=5, batch_size=10, patience=2), validate=validate)
    assert [record["validation_error"] for record in history] == [0.5, 0.2, 0.3, 0.2]
    assert all("validation_denoising_cost" not in record for record in history)
    assert torch.equal(sections(ladder)[0].map.weight, states[1])


@pytest.mark.parametrize(
    ("measured", "epochs", "best"),
    [
        ([(0.5, 9.0), (0.2, 8.0), (0.3, 7.0), (0.3, 6.0), (0.3, 6.0), (0.3, 6.1), (0.1, 1.0)], 6, 1),
        ([(0.2, 9.0), (0.2, 8.0), (0.2, 7.0), (0.3, 7.0), (0.2, 7.5), (0.1, 1.0)], 5, 2),
        ([(0.2, 9.0), (0.2, 8.999), (0.2, 8.998), (0.1, 1.0)], 3, 2),
    ],
    ids=["cost-still-falling", "same-error", "hardly-falling"],
)
def test_the_held_out_denoising_cost_counts_as_progress_and_settles_ties(measured, epochs, best):
    """With few labels many epochs share one error, and the error alone would stop while the ladder still learns."""
    answers, states = iter(measured), []

    def validate(ladder):
        states.append(sections(ladder)[0].map.weight.detach().clone())
        return Validation(*next(answers))

    ladder, history = run(TrainingConfig(epochs=7, batch_size=10, patience=2), validate=validate)
    assert [(r["validation_error"], r["validation_denoising_cost"]) for r in history] == measured[:epochs]
    assert torch.equal(sections(ladder)[0].map.weight, states[best])


class Interrupt(Callback):
    def __init__(self, step):
        self.steps_left = step

    def on_step_end(self):
        self.steps_left -= 1
        if self.steps_left == 0:
            raise KeyboardInterrupt


def test_an_interruption_leaves_a_ladder_that_predicts():
    ladder, x, *labeled = problem()
    config = TrainingConfig(epochs=4, batch_size=10)
    with pytest.raises(TrainingInterrupted, match="interrupted after 2 epochs") as raised:
        train(ladder, x, *labeled, config, generator=generator(), callback=Interrupt(step=13))
    assert [record["epoch"] for record in raised.value.history] == [1, 2]
    assert not ladder.training
    z_pre = sections(ladder)[0].map(x)
    torch.testing.assert_close(sections(ladder)[0].rung.statistics.mean, z_pre.mean(dim=0))
    assert ladder.steps == 13


def test_an_interruption_keeps_the_best_epoch_where_there_is_one():
    states = []

    def validate(ladder):
        states.append(sections(ladder)[0].map.weight.detach().clone())
        return Validation([0.1, 0.4][len(states) - 1])

    ladder, *data = problem()
    config = TrainingConfig(epochs=4, batch_size=10, patience=4)
    with pytest.raises(TrainingInterrupted):
        train(ladder, *data, config, generator=generator(), validate=validate, callback=Interrupt(step=12))
    assert torch.equal(sections(ladder)[0].map.weight, states[0])


def test_a_given_optimizer_goes_on_with_its_moments():
    ladder, *data = problem()
    config = TrainingConfig(epochs=1, batch_size=10, decay_start=1.0)
    optimizer = make_optimizer(ladder, config)
    for _ in range(2):
        train(ladder, *data, config, generator=generator(), optimizer=optimizer)
    states = list(optimizer.state.values())
    assert {int(state["step"]) for state in states} == {10}
    assert optimizer.param_groups[0]["lr"] == config.learning_rate


def test_rows_weights_reach_the_supervised_cost():
    """Rows of weight 0 might as well have any label."""
    ladders = []
    for flip in (False, True):
        ladder, x, x_labeled, y = problem()
        weight = torch.ones(len(y))
        weight[:4] = 0
        y[:4] = 1 - y[:4] if flip else y[:4]
        config = TrainingConfig(epochs=2, batch_size=10)
        train(ladder, x, x_labeled, y, config, generator=generator(), weight=weight)
        ladders.append(ladder)
    first, second = ladders
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    unweighted, *_ = run(TrainingConfig(epochs=2, batch_size=10))
    assert not torch.equal(sections(first)[0].map.weight, sections(unweighted)[0].map.weight)


@pytest.mark.fault(
    "a cost becomes NaN or infinite",
    "stops, and names the epoch, the step and the layer where it began",
    lost="the work since the last state",
)
def test_a_cost_that_is_not_finite_stops_the_run():
    ladder, x, x_labeled, y = problem()
    x[3, 1] = math.inf
    recorder = Recorder()
    with pytest.raises(
        TrainingError,
        match="the cost became nan in epoch 1, step 1 of 1, beginning in layer 1 .*Lower the learning rate",
    ):
        train(
            ladder,
            x,
            x_labeled,
            y,
            TrainingConfig(epochs=2, batch_size=50),
            generator=generator(),
            callback=recorder,
        )
    assert recorder.events[-1] == "end"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.inf}, "learning_rate must be positive and finite"),
        ({"decay_start": 1.5}, "decay_start must be between 0 and 1"),
        ({"decay": "steep"}, "decay must be one of linear, cosine, got 'steep'"),
        ({"averaged_epochs": 151}, "averaged_epochs must be between 0 and epochs, got 151"),
        ({"averaged_epochs": 2, "patience": 3}, "both choose the weights that a run ends with"),
        ({"precision": "int8"}, "precision must be one of auto, float32, tf32, bfloat16, float64"),
        ({"kernels": "cuda"}, "kernels must be one of auto, compiled, torch"),
        ({"patience": 0}, "patience must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


def test_all_parameters_learn():
    ladder, x, x_labeled, y = problem(combinator="sigmoid")
    before = [parameter.detach().clone() for parameter in ladder.parameters()]
    train(ladder, x, x_labeled, y, TrainingConfig(epochs=1, batch_size=10), generator=generator())
    assert all(not torch.equal(a, b) for a, b in zip(before, ladder.parameters(), strict=True))
    assert isinstance(sections(ladder)[0].rung.activation, nn.ReLU)

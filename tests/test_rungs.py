import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from conftest import sections
from laddernet.ladder import Ladder
from laddernet.networks import ResidualBlock, WideResNet
from laddernet.rungs import Normalization, Rung, place


def rungs_of(encoder, rungs=None, input_shape=None):
    return [made for made in place(encoder, rungs, input_shape).normalizations if isinstance(made, Rung)]


def test_biases_go_weights_stay_and_the_original_is_untouched():
    encoder = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    ladder = Ladder(encoder)
    assert [section.map.bias for section in sections(ladder)] == [None, None]
    assert torch.equal(sections(ladder)[0].map.weight, encoder[0].weight)
    with torch.no_grad():
        sections(ladder)[0].map.weight.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert encoder.training


def trained(encoder, *shape):
    """A network whose batch normalisations have seen data and have scales of their own, one of them dead."""
    torch.manual_seed(0)
    for _ in range(20):
        encoder(torch.randn(16, *shape) * 3 + 1)
    with torch.no_grad():
        for norm in encoder.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.affine:
                norm.weight.uniform_(0.5, 2)
                norm.weight[0] = 0
                norm.bias.normal_()
    return encoder.eval()


def with_batch_norm():
    return trained(
        nn.Sequential(
            nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.1)),
            nn.Linear(6, 5),
            nn.ReLU(),
            nn.Linear(5, 3, bias=False),
            nn.BatchNorm1d(3),
        ),
        4,
    )


class Functional(nn.Module):
    """Everything but the maps is in its `forward`; the last map's output is reused, and a branch has a norm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2)
        self.second = nn.Conv2d(4, 6, 2)
        self.norm = nn.BatchNorm2d(6)
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6 * 1 * 2, 3)

    def forward(self, x):
        h = functional.relu(self.first(x), inplace=True)
        h = self.norm(self.second(functional.max_pool2d(h, 2, ceil_mode=True)))
        h = h + self.branch(h)
        return self.head(functional.gelu(h).flatten(1))


NETWORKS = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "bias": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (4,)),
    "tanh": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3, bias=False)), (4,)),
    "plain-bn": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 3)),
        (4,),
    ),
    "prelu": (lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3)), (4,)),
    "learned-bn": (with_batch_norm, (4,)),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)), (4,)),
    "layer-norm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)), (4,)),
    "group-norm": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(12, 3)
        ),
        (2, 9),
    ),
    "functional": (lambda: trained(Functional(), 2, 8, 11), (2, 8, 11)),
    "residual": (lambda: trained(WideResNet((2, 7, 9), 3, width=1), 2, 7, 9), (2, 7, 9)),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(1, 3, 3, stride=2, output_padding=1), nn.SiLU(), nn.AdaptiveMaxPool2d((2, 3)),
            nn.Conv2d(3, 4, 3, padding="same"), nn.SELU(), nn.Flatten(), nn.Linear(24, 3),
        ),
        (1, 4, 5),
    ),
    "three-dimensional": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
        ),
        (1, 3, 4, 5),
    ),
}  # fmt: skip


@pytest.fixture(params=NETWORKS, ids=list(NETWORKS))
def network(request):
    make, shape = NETWORKS[request.param]
    torch.manual_seed(1)
    return make().eval(), torch.randn(10, *shape)


def test_before_training_a_ladder_answers_as_the_network_did(network):
    encoder, x = network
    expected = torch.softmax(encoder(x), dim=1)
    ladder = Ladder(encoder, input_shape=x.shape[1:])
    torch.testing.assert_close(ladder.predict(x), expected, rtol=1e-4, atol=1e-6)


def test_after_training_the_plain_encoder_answers_as_the_ladder_does(network):
    encoder, x = network
    ladder = Ladder(encoder, input_shape=x.shape[1:], generator=torch.Generator().manual_seed(0))
    for parameter in ladder.parameters():
        parameter.data *= 1 + 0.1 * torch.randn(parameter.shape)  # a dead scale stays dead
    costs = ladder(x, torch.arange(10) % 3, x)
    costs.total.backward()
    assert all(parameter.grad is not None for name, parameter in ladder.named_parameters() if "statistics" not in name)
    ladder.calibrate(x, batch_size=4)
    plain = ladder.encoder
    torch.testing.assert_close(torch.softmax(plain(x), dim=1), ladder.predict(x), rtol=1e-5, atol=1e-5)
    assert not any(type(module).__module__.startswith("laddernet") and type(module) not in (WideResNet, ResidualBlock)
                   for module in plain.modules())  # fmt: skip


@pytest.mark.usefixtures("calibrated_both_ways")
def test_calibration_makes_every_normalisation_exact(network):
    encoder, x = network
    ladder = Ladder(encoder.double(), input_shape=x.shape[1:], variant="baseline")
    x = x.double()
    ladder.calibrate(x, batch_size=3)
    plain = ladder.encoder.train()
    for module in plain.modules():
        if isinstance(module, (nn.Dropout,)):
            module.eval()
    torch.testing.assert_close(plain(x), ladder.logits(x), rtol=1e-8, atol=1e-8)


def test_the_plain_encoder_is_of_the_callers_own_class():
    encoder = trained(Functional(), 2, 8, 11)
    plain = Ladder(encoder, input_shape=(2, 8, 11), rungs=("norm", "head")).encoder
    assert type(plain) is Functional
    assert type(plain.norm) is nn.BatchNorm2d
    assert [type(module) for module in plain.head] == [nn.Linear, nn.BatchNorm1d]
    sequence = Ladder(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))).encoder
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert [type(module) for module in sequence] == kinds


def test_a_network_in_float64_keeps_its_precision():
    encoder, x = with_batch_norm().double(), torch.randn(10, 4, dtype=torch.float64)
    expected = torch.softmax(encoder(x), dim=1)
    torch.testing.assert_close(Ladder(encoder).predict(x), expected, rtol=1e-11, atol=1e-13)


def test_the_plain_encoder_draws_no_random_numbers():
    ladder = Ladder(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    before = torch.get_rng_state()
    assert ladder.encoder(torch.zeros(2, 4)).shape == (2, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_scale_is_learned_only_where_it_is_not_redundant():
    encoder = nn.Sequential(
        nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.LeakyReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)
    )
    assert [rung.gamma is not None for rung in rungs_of(encoder)] == [False, False, True, True]


def test_what_batch_normalisation_learns_a_rung_learns():
    frozen = nn.BatchNorm1d(2)
    frozen.weight.requires_grad_(False)
    encoder = nn.Sequential(
        nn.Conv1d(1, 3, 2), nn.BatchNorm1d(3), nn.ReLU(), nn.MaxPool1d(2), nn.BatchNorm1d(3, affine=False),
        nn.Flatten(), nn.Linear(6, 2), frozen,
    )  # fmt: skip
    learned = [(rung.beta is not None, rung.gamma is not None) for rung in rungs_of(encoder, None, (1, 5))]
    assert learned == [(True, False), (False, False), (True, False)]


def test_rungs_by_default():
    names = [rung.name for rung in rungs_of(WideResNet((1, 8, 8), 3, blocks=2), None, (1, 8, 8))]
    assert names == [
        "blocks.0.norm1", "blocks.0", "blocks.2.norm1", "blocks.2", "blocks.4.norm1", "blocks.4", "norm", "head"
    ]  # fmt: skip
    names = [rung.name for rung in rungs_of(Functional(), None, (2, 8, 11))]
    assert names == ["first", "norm", "head"]  # the branch's norm is no rung


def test_rungs_where_the_caller_names_them():
    encoder = nn.Sequential()
    encoder.add_module("stem", nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    encoder.add_module("pool", nn.MaxPool2d(2))
    encoder.add_module("conv", nn.Conv2d(4, 5, 2))
    encoder.add_module("norm", nn.BatchNorm2d(5))
    encoder.add_module("end", nn.Flatten())
    encoder.add_module("head", nn.Linear(20, 3))
    placed = place(encoder, ("stem", "pool", "conv", "head"), (1, 8, 8))
    made = [m for m in placed.normalizations if isinstance(m, Rung)]
    assert [rung.name for rung in made] == ["stem.1", "pool", "norm", "head"]
    assert (made[1].beta, made[1].gamma) == (None, None)
    assert len(placed.normalizations) == 4
    few = place(encoder, ("head",), (1, 8, 8)).normalizations
    assert [type(made) for made in few] == [Normalization, Normalization, Rung]


def test_a_norm_inside_a_block_has_statistics_of_each_stream():
    encoder = nn.Sequential(ResidualBlock(2, 2), nn.Flatten(), nn.Linear(18, 3)).double()
    ladder = Ladder(encoder, input_shape=(2, 3, 3), noise_std=0.0)
    x = torch.randn(8, 2, 3, 3, dtype=torch.float64)
    alone = ladder(x[:4], torch.arange(4) % 3, x)
    beside = ladder(x[:4], torch.arange(4) % 3, 100 + 7 * x)
    torch.testing.assert_close(alone.supervised, beside.supervised, rtol=1e-12, atol=0)


def test_dropout_takes_place_in_the_noisy_streams_alone():
    encoder = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 3))
    seen = []
    ladder = Ladder(encoder, noise_std=0.0, generator=torch.Generator().manual_seed(0))
    ladder.network[2].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    x = torch.randn(40, 6)
    state = torch.get_rng_state()
    ladder(x[:10], torch.arange(10) % 3, x)
    (before, after), = seen  # fmt: skip
    assert torch.equal(after[50:], before[50:])
    noisy = after[:50][before[:50] > 0] / before[:50][before[:50] > 0]
    assert set(noisy.unique().tolist()) == {0.0, 2.0}
    assert abs((noisy == 0).float().mean().item() - 0.5) < 0.1
    assert torch.equal(torch.get_rng_state(), state)
    assert type(ladder.encoder[3]) is nn.Dropout


def test_dropout_of_channels_drops_whole_ones():
    encoder = nn.Sequential(nn.Conv1d(1, 30, 1), nn.Dropout1d(0.4), nn.Flatten(), nn.Linear(90, 3))
    ladder = Ladder(encoder, input_shape=(1, 3), noise_std=0.0, variant="baseline")
    seen = []
    ladder.network[1].register_forward_hook(lambda module, inputs, output: seen.append(output == 0))
    ladder(torch.rand(20, 1, 3) + 1, torch.arange(20) % 3)
    assert torch.equal(seen[0].all(dim=2), seen[0].any(dim=2))
    assert abs(seen[0].float().mean().item() - 0.4) < 0.1
    ladder.eval()
    ladder(torch.rand(20, 1, 3) + 1, torch.arange(20) % 3)
    assert not seen[1].any()


@pytest.mark.parametrize(
    ("modules", "error", "message"),
    [
        ([nn.Linear(3, 2), nn.Softmax(1)], ValueError, "ends in Softmax: take it out.*needs the logits"),
        ([nn.Linear(3, 2), nn.LogSoftmax(1)], ValueError, "ends in LogSoftmax"),
        ([nn.Linear(3, 2), nn.Sigmoid()], ValueError, "ends in Sigmoid"),
        ([nn.Linear(3, 2), nn.ReLU()], ValueError, "must end in what gives the logits, but ends in ReLU"),
        ([nn.Flatten(), nn.Linear(3, 2)], ValueError, "begins with Flatten.* give it as input_shape"),
        ([], ValueError, "begins with Sequential"),
        ([nn.Linear(3, 3), nn.AlphaDropout(), nn.Linear(3, 2)], TypeError, "module '1' .*AlphaDropout.*nn.Dropout"),
        ([nn.Linear(3, 4), nn.Linear(3, 2)], ValueError, r"cannot take rows of shape \(3,\).*input_shape"),
        ([nn.Linear(3, 3), nn.LazyLinear(2)], ValueError, "'1' of the encoder, LazyLinear, has no weights yet"),
    ],
)
def test_networks_that_cannot_become_a_ladder_are_refused(modules, error, message):
    with pytest.raises(error, match=message):
        Ladder(nn.Sequential(*modules))


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(dim=0)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.norm, self.head = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.norm(self.map(self.norm(x))))


@pytest.mark.parametrize(
    ("encoder", "options", "error", "message"),
    [
        (nn.LSTM(3, 3), {"input_shape": (5, 3)}, ValueError, "must give logits of shape .*tuple"),
        (nn.Sequential(nn.Linear(3, 2), Centred()), {}, ValueError, "depends on the other rows"),
        (nn.Conv1d(1, 2, 3), {"input_shape": (1, 3)}, ValueError, r"gives shape \(3, 2, 1\). End it in a pool"),
        (nn.Sequential(nn.Linear(3, 2), nn.Flatten()), {"rungs": ("0", "2")}, ValueError, "names '2'.*It has 0, 1"),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), {"rungs": ("0",)}, ValueError, "add '1' to rungs"),
        (nn.Linear(3, 2), {"rungs": "head"}, ValueError, "must be a sequence of submodules"),
        (Twice(), {}, ValueError, "'norm' of the encoder, BatchNorm1d, is called more than once"),
        (
            nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 2)),
            {"input_shape": (2, 3)},
            ValueError,
            r"'0' of the encoder, Linear, gives rows of shape \(2, 4\), its features last",
        ),
        ("mlp", {}, TypeError, "must be a torch module, got str"),
    ],
)
def test_what_else_cannot_become_a_ladder_is_named(encoder, options, error, message):
    with pytest.raises(error, match=message):
        Ladder(encoder, **options)


def test_a_copy_of_a_ladder_is_its_own():
    ladder = Ladder(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    other = copy.deepcopy(ladder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    x = torch.randn(6, 4)
    assert not torch.equal(ladder.predict(x), other.predict(x))
    before = {name: buffer.clone() for name, buffer in ladder.named_buffers()}
    other(x, torch.arange(6) % 2, x)
    assert all(torch.equal(buffer, before[name]) for name, buffer in ladder.named_buffers())


class Numbered(nn.Module):
    """Goes by the number of each layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3))

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number < 2:
                x = torch.tanh(x)
        return x


class Branching(nn.Module):
    """Takes a Sequential apart, and uses what stands before its activation too."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        normalised = self.block[1](self.block[0](x))
        return self.head(self.block[2](normalised) + normalised)


class Viewing(nn.Module):
    """Views of what a rung gives, and rows counted before the clean stream ends."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(36, 3)

    def forward(self, x):
        rows = len(x)
        return self.head(functional.max_pool2d(functional.relu(self.conv(x)), 2).view(rows, -1))


class Adding(nn.Module):
    """Adds in place to what a rung gives."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LeakyReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = self.block(x)
        h += x
        return self.head(h)


SHARED = nn.Tanh()
AWKWARD = {
    "shared-module": (nn.Sequential(nn.Linear(4, 6), SHARED, nn.Linear(6, 5), SHARED, nn.Linear(5, 3)), (4,)),
    "names": (
        nn.Sequential(OrderedDict(conv=nn.Conv1d(2, 4, 3), conv_norm=nn.GroupNorm(2, 4), act=nn.ReLU(),
                                  end=nn.Flatten(), head=nn.Linear(16, 3))), (2, 6),
    ),
    "numbered": (Numbered(), (4,)),
    "branching": (Branching(), (4,)),
    "features-last": (
        nn.Sequential(nn.Conv1d(2, 5, 1), nn.Linear(6, 4), nn.BatchNorm1d(5), nn.ReLU(), nn.Flatten(),
                      nn.Linear(20, 3)), (2, 6),
    ),
    "viewing": (Viewing(), (2, 8, 8)),
    "adding": (Adding(), (4,)),
    "batch-statistics": (
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.ReLU(), nn.Linear(5, 3)), (4,),
    ),
    "norm-first": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), (4,)),
}  # fmt: skip


@pytest.mark.parametrize("fused", [False, True], ids=["torch", "kernels"])
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_networks(name, fused):
    encoder, shape = AWKWARD[name]
    weights = (1.0, *[1.0] * (len(Ladder(encoder, input_shape=shape).rung_names) - 1), 0.0)
    ladder = Ladder(encoder, input_shape=shape, denoising_weights=weights, generator=torch.Generator().manual_seed(0))
    assert not fused or ladder.fuse()
    x = torch.randn(12, *shape, generator=torch.Generator().manual_seed(1))
    if name != "batch-statistics":  # whose answers depended on the batch
        torch.testing.assert_close(ladder.predict(x), torch.softmax(encoder.eval()(x), 1), rtol=1e-4, atol=1e-5)
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            assert not fused or ladder.fuse()
            ladder(x[:6], torch.arange(6) % 3, x).total.backward()
    ladder.calibrate(x)
    torch.testing.assert_close(torch.softmax(ladder.encoder(x), 1), ladder.predict(x), rtol=1e-5, atol=1e-5)


class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.relu(self.first(x.reshape(-1, self.first.in_features))))


class LogSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return functional.log_softmax(self.head(x), dim=1)


class Folding(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.norm, self.head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(10, 3)

    def forward(self, x):
        return self.head(self.norm(self.map(x.flatten(0, 1))).view(len(x), -1))


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.norm, self.head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.norm(input=self.map(x)))


@pytest.mark.parametrize(
    ("encoder", "shape", "message"),
    [
        (Asking(), (2, 4), "cannot be run with rungs .*no attribute 'in_features'.*forward asks for more"),
        (LogSoftmax(), (4,), "ends in LogSoftmax: take it out"),
        (Folding(), (2, 4), "'norm' of the encoder, BatchNorm1d, gets 6 rows for 3"),
        (Keyword(), (4,), "'norm' of the encoder, BatchNorm1d, must be called with one tensor, by position"),
    ],
)
def test_what_a_forward_may_not_do_is_told_when_the_ladder_is_made(encoder, shape, message):
    with pytest.raises(ValueError, match=message):
        Ladder(encoder, input_shape=shape)


def test_a_rung_after_a_dropout():
    encoder = nn.Sequential(OrderedDict(first=nn.Linear(4, 6), drop=nn.Dropout(0.2), last=nn.Linear(6, 3)))
    ladder = Ladder(encoder, rungs=("drop", "last"))
    x = torch.randn(8, 4)
    ladder(x, torch.arange(8) % 3, x).total.backward()
    ladder.calibrate(x)
    assert ladder.rung_names == ("drop", "last")


def test_dropout_of_a_clean_supervised_path_is_in_the_unlabelled_noisy_stream():
    ladder = Ladder(nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)), supervised_path="clean")
    seen = []
    ladder.network[1].register_forward_hook(lambda module, inputs, output: seen.append(output == 0))
    x = torch.randn(10, 4)
    ladder(x, torch.arange(10) % 3, x)
    assert [bool(part.any()) for part in torch.split(seen[0], 10)] == [False, True, False]


def test_frozen_scales_and_shifts_stay_frozen():
    norm = nn.BatchNorm1d(3)
    nn.init.constant_(norm.weight, 2.0)
    for parameter in norm.parameters():
        parameter.requires_grad_(False)
    (rung, _) = rungs_of(nn.Sequential(nn.Linear(2, 3), norm, nn.ReLU(), nn.Linear(3, 2)))
    assert not rung.gamma.requires_grad
    assert not rung.beta.requires_grad


class InTrainingAlone(nn.Module):
    """Dropout that evaluation mode does not call, or not with one tensor by position."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first, self.drop, self.last = nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, 3)

    def forward(self, x):
        h = self.first(x).relu()
        if self.how == "by name":
            h = self.drop(input=h)
        elif self.training:
            h = self.drop(h)
        return self.last(h)


@pytest.mark.parametrize("how", ["by name", "in training"])
def test_dropout_stays_off_the_clean_stream_however_it_is_called(how):
    ladder = Ladder(InTrainingAlone(how), noise_std=0.0, denoising_weights=(0, 0, 1), supervised_path="clean")
    with torch.no_grad():
        for parameter in ladder.decoder.parameters():
            parameter.add_(0.3)  # at first the decoder takes no notice of what is noisy
    x, y = torch.rand(20, 6), torch.arange(20) % 3
    first, second = (ladder(x, y, x) for _ in range(2))
    assert first.supervised == second.supervised
    assert first.denoising[2] != second.denoising[2]  # the noisy stream has it
    assert type(ladder.encoder.drop) is nn.Dropout


class WithTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)
        self.table = nn.Parameter(torch.randn(1, 4))

    def forward(self, x):
        return self.last(self.first(x) + self.drop(self.table))


def test_dropout_of_what_has_no_rows_is_refused():
    ladder = Ladder(WithTable())
    with pytest.raises(ValueError, match="a Dropout of the encoder gets 1 rows where the batch has 15"):
        ladder(torch.rand(5, 4), torch.arange(5) % 2, torch.rand(5, 4))


def test_dropout_above_the_highest_target_gets_the_streams_that_are_left():
    encoder = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 2))
    costs = Ladder(encoder, denoising_weights=(1, 1, 0, 0))(torch.rand(5, 4), torch.arange(5) % 2, torch.rand(7, 4))
    assert costs.total.isfinite()


class OwnBatchNorm(nn.Module):
    def forward(self, x):
        return x - (x.mean(dim=0) if self.training else 0.5)


class FunctionalBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x):
        return functional.batch_norm(x, self.mean, self.var, training=self.training)


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return (self.head(x), x) if self.training else self.head(x)


class KeepsAGraph(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.doubled = 2 * self.weight  # as the older weight_norm does


class Recomputed(nn.Module):
    def __init__(self, *, reentrant, norm=False):
        super().__init__()
        self.reentrant = reentrant
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4) if norm else nn.Identity(), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.block = nn.Conv1d(2, 8, 1), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.block(self.conv(x).transpose(1, 2)).mean(1))


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), OwnBatchNorm(), nn.Linear(4, 2)), {}, "other rows of its batch in training"),
        (nn.Sequential(nn.Linear(4, 4), FunctionalBatchNorm(), nn.Linear(4, 2)), {}, "batch in training mode"),
        (Auxiliary(), {}, "gives tuple in training mode, but logits"),
        (Recomputed(reentrant=False), {}, "'block.0' of the encoder is run again in the backward pass"),
        (Recomputed(reentrant=True), {}, "uses torch.utils.checkpoint"),
        (Recomputed(reentrant=True, norm=True), {}, "uses torch.utils.checkpoint"),
        (
            Tokens(),
            {"input_shape": (2, 5)},
            r"'block' of the encoder.* gives rows of shape \(5, 8\), its features last",
        ),
        (KeepsAGraph(4, 2), {}, "the encoder cannot be copied"),
    ],
)
def test_what_shows_in_training_alone_is_refused_when_the_ladder_is_made(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        Ladder(encoder, **options)


def test_what_a_network_does_in_training_leaves_it_and_the_random_numbers_alone():
    encoder = nn.Sequential(nn.Linear(4, 4), nn.RReLU(), nn.Linear(4, 2))
    before = torch.get_rng_state()
    Ladder(encoder, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


class TestLargeShifts:
    """A batch normalisation whose scale is small beside its shift keeps the shift behind the scale."""

    @staticmethod
    def encoder(scale=(1.0, 1e-6, 0.0, -1e-3, 0.5)):
        made = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double()
        with torch.no_grad():
            made[1].weight.copy_(torch.tensor(scale))
            made[1].bias.fill_(0.5)
        return made.eval()

    def test_it_answers_as_before(self):
        encoder, x = self.encoder(), torch.randn(8, 3, dtype=torch.float64)
        ladder = Ladder(encoder)
        assert ladder.network[1].beta is None
        torch.testing.assert_close(ladder.logits(x), encoder(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ladder.encoder(x), encoder(x), rtol=1e-9, atol=1e-9)

    def test_a_step_moves_it_no_further_than_its_learning_rate(self):
        torch.manual_seed(0)
        ladder = Ladder(self.encoder().train(), variant="baseline", noise_std=0.0)
        optimizer = torch.optim.Adam(ladder.parameters(), lr=0.002)
        x, y = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 2
        costs = []
        for _ in range(5):
            costs.append(float(ladder(x, y).total.detach()))
            optimizer.zero_grad()
            ladder(x, y).total.backward()
            optimizer.step()
        assert max(costs) < 2 * costs[0]
        assert (ladder.encoder[1].bias - 0.5).abs().max() < 0.02

    def test_moderate_ones_are_in_units_of_the_scale(self):
        ladder = Ladder(self.encoder((1.0, 0.06, 2.0, -0.1, 0.5)))
        assert ladder.network[1].offset is None
        torch.testing.assert_close(ladder.network[1].beta, 0.5 / ladder.network[1].gamma)

    def test_kernels_do_the_same(self):
        ladder = Ladder(self.encoder(), noise_std=0.0)
        x, y = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 2
        found = []
        for fused in (False, True):
            assert ladder.fuse() or not fused
            ladder.fused = fused
            ladder.zero_grad()
            costs = ladder(x, y, x)
            costs.total.backward()
            found.append([costs.total.detach(), *(parameter.grad.clone() for parameter in ladder.parameters())])
        for expected, got in zip(*found, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("scale", [(1.0, 1e-6, 0.0, -1e-3, 0.5), (1.0, 0.06, 2.0, -0.1, 0.5)])
    def test_a_state_goes_to_a_ladder_that_was_made_of_other_weights(self, scale):
        x = torch.randn(8, 3, dtype=torch.float64)
        here = Ladder(self.encoder(scale))
        there = Ladder(self.encoder((1.0, 0.06, 2.0, -0.1, 0.5) if scale[2] == 0 else (1.0, 1e-6, 0.0, -1e-3, 0.5)))
        there.load_state_dict(here.state_dict())
        assert torch.equal(there.logits(x), here.logits(x))
        assert there.state_dict().keys() == here.state_dict().keys()

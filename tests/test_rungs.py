import pytest
import torch
from torch import nn

from laddernet.ladder import Ladder
from laddernet.rungs import mirror, split


def test_biases_go_weights_stay_and_the_original_is_untouched():
    encoder = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    sections = split(encoder)
    assert [section.map.bias for section in sections] == [None, None]
    assert torch.equal(sections[0].map.weight, encoder[0].weight)
    with torch.no_grad():
        sections[0].map.weight.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def with_batch_norm():
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.1)),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 3, bias=False),
        nn.BatchNorm1d(3),
    )
    for _ in range(20):
        encoder(torch.randn(16, 4) * 3 + 1)
    with torch.no_grad():
        for norm in (encoder[0][1], encoder[4]):
            norm.weight.uniform_(0.5, 2)
            norm.weight[0] = 0  # a dead scale keeps its shift
            norm.bias.normal_()
    return encoder.eval()


@pytest.mark.parametrize(
    "encoder",
    [
        nn.Linear(4, 3),
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3, bias=False)),
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3)),
        with_batch_norm(),
    ],
    ids=["linear", "bias", "tanh", "plain-bn", "prelu", "learned-bn"],
)
def test_before_training_a_ladder_answers_as_the_network_did(encoder):
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    encoder.eval()
    expected = torch.softmax(encoder(x), dim=1)
    torch.testing.assert_close(Ladder(encoder).predict(x), expected, rtol=1e-4, atol=1e-6)


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
    assert [section.rung.gamma is not None for section in split(encoder)] == [False, False, True, True]


def test_mirror_of_a_linear_map():
    back = mirror(nn.Linear(500, 400), torch.Generator().manual_seed(0))
    assert (back.in_features, back.out_features, back.bias) == (400, 500, None)
    assert back.weight.std().item() == pytest.approx(400**-0.5, rel=0.02)


def test_a_map_without_a_mirror_is_named():
    with pytest.raises(TypeError, match="no decoder is known for a map of type Bilinear"):
        mirror(nn.Bilinear(2, 2, 2), None)


@pytest.mark.parametrize(
    ("modules", "error", "message"),
    [
        ([nn.Linear(3, 2), nn.Softmax(1)], ValueError, "ends in Softmax: take it out.*needs the logits"),
        ([nn.Linear(3, 2), nn.LogSoftmax(1)], ValueError, "ends in LogSoftmax"),
        ([nn.Linear(3, 2), nn.Sigmoid()], ValueError, "ends in Sigmoid"),
        ([nn.Linear(3, 2), nn.ReLU()], ValueError, "must end in the linear map that gives the logits"),
        ([nn.Flatten(), nn.Linear(3, 2)], ValueError, "must start with nn.Linear, but starts with Flatten"),
        ([], ValueError, "starts with nothing"),
        ([nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2)], TypeError, "module 1 .*Dropout.*noise of its own"),
        ([nn.Linear(3, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2)], TypeError, "module 2 .*BatchNorm1d"),
        ([nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2)], TypeError, "LayerNorm.*neither a linear map nor"),
        ([nn.Linear(3, 3), nn.Conv1d(1, 1, 1), nn.Linear(3, 2)], TypeError, "Conv1d"),
    ],
)
def test_networks_that_cannot_become_a_ladder_are_refused(modules, error, message):
    with pytest.raises(error, match=message):
        Ladder(nn.Sequential(*modules))


def test_other_modules_are_refused_by_name():
    with pytest.raises(TypeError, match=r"must be an nn\.Sequential .* got LSTM"):
        Ladder(nn.LSTM(3, 3))

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from laddernet.ladder import Ladder
from laddernet.mirrors import Fit, Resize, TransposedConvolution, map_down, mirror
from laddernet.networks import WideResNet
from laddernet.products import LinearMap
from laddernet.rungs import Between, place


def test_of_a_linear_map():
    back = mirror(nn.Linear(500, 400), (500,), (400,), torch.Generator().manual_seed(0))
    assert (back.in_features, back.out_features, back.bias) == (400, 500, None)
    assert back.weight.std().item() == pytest.approx(400**-0.5, rel=0.02)


def test_of_a_convolution_starts_uniform_by_its_fan_in():
    generator = torch.Generator().manual_seed(0)
    back = mirror(nn.Conv2d(20, 30, 3, groups=5), (20, 9, 9), (30, 7, 7), generator)
    assert back.weight.shape == (30, 4, 3, 3)
    assert back.weight.abs().max().item() == pytest.approx((3 / (6 * 9)) ** 0.5, rel=0.01)
    back, fit = mirror(nn.ConvTranspose1d(8, 6, 5), (8, 4), (6, 8), generator)
    assert back.weight.shape == (8, 6, 5)
    assert back.weight.abs().max().item() == pytest.approx((3 / (6 * 5)) ** 0.5, rel=0.01)
    assert fit.size == (4,)


@st.composite
def convolutions(draw):
    dimensions = draw(st.integers(1, 3))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(dimensions)) for _ in range(3))
    groups = draw(st.integers(1, 2))
    padding = draw(st.sampled_from(["number", "number", "same", "valid"]))
    if padding == "same":
        stride = (1,) * dimensions
    if padding == "number":
        padding = tuple(draw(st.integers(0, 2)) for _ in range(dimensions))
    size = tuple(draw(st.integers(d * (k - 1) + 1, 9)) for d, k in zip(dilation, kernel, strict=True))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    return kind(2 * groups, 3 * groups, kernel, stride, padding, dilation, groups, bias=False).double(), size


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=80, deadline=None)
@given(made=convolutions(), last=st.booleans())
def test_of_a_convolution_is_its_transpose(made, last):
    """<conv(x), h> = <x, transpose(h)> for every stride, padding, dilation, grouping and size."""
    convolution, size = made
    x = torch.randn(2, convolution.in_channels, *size, dtype=torch.float64)
    z = convolution(x)
    back = mirror(convolution, tuple(x.shape[1:]), tuple(z.shape[1:]), None).double()
    with torch.no_grad():
        back.weight.copy_(convolution.weight)
    h = torch.randn(z.shape, dtype=torch.float64)
    if last:
        h = h.movedim(1, -1).contiguous().movedim(-1, 1)
    answer = back(h.requires_grad_())
    assert answer.shape == x.shape
    torch.testing.assert_close((z * h).sum(), (x * answer).sum(), rtol=1e-9, atol=1e-9)
    towards = torch.randn(x.shape, dtype=torch.float64)
    grad_h, grad_weight = torch.autograd.grad((answer * towards).sum(), [h, back.weight])
    torch.testing.assert_close(grad_h, convolution(towards), rtol=1e-9, atol=1e-9)
    weight = convolution.weight.detach().clone().requires_grad_()
    z = torch.func.functional_call(convolution, {"weight": weight}, (towards,))
    torch.testing.assert_close(grad_weight, torch.autograd.grad((z * h).sum(), weight)[0], rtol=1e-9, atol=1e-9)


def test_of_a_convolution_under_autocast():
    convolution = nn.Conv2d(3, 4, 3)
    back = mirror(convolution, (3, 6, 6), (4, 4, 4), None)
    h = torch.randn(5, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = back(h)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), back(h), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("encoder", "shape", "kinds"),
    [
        (nn.Sequential(nn.Conv1d(1, 2, 2), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 3)), (1, 6),
         [["TransposedConvolution"], ["LinearMap", "Reshape", "Resize"]]),
        (nn.Sequential(nn.Linear(8, 8), nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 2)),
         (8,), [["LinearMap"], ["TransposedConvolution", "Reshape"], ["LinearMap", "Reshape"]]),
        (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 2, 2), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
                       nn.Linear(2, 2)), (1, 3, 3),
         [["TransposedConvolution", "Resize"], ["LinearMap", "Reshape", "Resize"]]),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.PixelShuffle(2), nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(50, 2)),
         (1, 3, 3), [["TransposedConvolution"], ["TransposedConvolution", "Conv2d", "Resize"],
                     ["LinearMap", "Reshape"]]),
    ],
)  # fmt: skip
def test_what_lies_between_is_mirrored_step_by_step(encoder, shape, kinds):
    ladder = Ladder(encoder, input_shape=shape)
    maps = [layer.map for layer in ladder.decoder.values() if layer.map is not None]
    found = [[type(m).__name__ for m in made.modules() if not isinstance(m, nn.Sequential)] for made in maps]
    assert found == kinds


def test_a_residual_block_gets_a_small_learned_map():
    placed = place(WideResNet((1, 9, 9), 3), ("stem", "blocks.1", "blocks.2", "head"), (1, 9, 9))
    maps = [map_down(between, None, None) for between in placed.between]
    assert [type(m).__name__ for m in maps] == ["TransposedConvolution", "Sequential", "Sequential", "Sequential"]
    assert [type(m) for m in maps[1]] == [nn.Conv2d, Resize]
    assert maps[1][0].weight.shape == (16, 64, 1, 1)
    assert maps[1](torch.zeros(2, 64, 5, 5)).shape == (2, 16, 9, 9)
    assert next(type(m) for m in maps[3]) is LinearMap


class Spectrum(nn.Module):
    """Rows of one dimension of positions, made of two."""

    def forward(self, x):
        return x.flatten(2)[:, :, ::2]


def test_what_has_no_mirror_is_named_and_can_be_given():
    encoder = nn.Sequential(nn.Conv2d(1, 2, 2), Spectrum(), nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(TypeError, match=r"from rung '2' down across '1' \(Spectrum\).*mirrors=\{'2': module\}"):
        Ladder(encoder, input_shape=(1, 4, 3))

    class Back(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.ConvTranspose1d(3, 2, 5)

        def forward(self, z):
            return self.map(z).unflatten(2, (3, 2))

    given = Back()
    ladder = Ladder(encoder, input_shape=(1, 4, 3), mirrors={"2": given})
    x = torch.randn(6, 1, 4, 3)
    ladder(x, torch.arange(6) % 2, x).total.backward()
    assert ladder.decoder["1"].map.map.weight.grad is not None
    assert given.map.weight.grad is None  # a copy of it was trained

    with pytest.raises(ValueError, match=r"mirrors names '1'; the rungs are '0', '2', '4'"):
        Ladder(encoder, input_shape=(1, 4, 3), mirrors={"1": Back()})
    with pytest.raises(ValueError, match=r"'2' must map rows of shape \(3, 2\) to \(2, 3, 2\), but gives \(3, 2\)"):
        Ladder(encoder, input_shape=(1, 4, 3), mirrors={"2": nn.Identity()})


def test_a_new_kind_of_module_joins_by_registering():
    class Doubled(nn.Module):
        def forward(self, x):
            return torch.cat([x, 2 * x], dim=1)

    encoder = nn.Sequential(Doubled(), nn.Linear(6, 4), nn.ReLU(), Doubled(), nn.Linear(8, 2))
    assert type(Ladder(encoder, input_shape=(3,)).decoder["1"].map[1]) is LinearMap

    @mirror.register
    def _(module: Doubled, below, above, generator):
        return nn.Linear(*above, *below, bias=False)

    maps = Ladder(encoder, input_shape=(3,)).decoder
    assert [type(m) for m in maps["1"].map] == [LinearMap, nn.Linear]
    assert maps["1"].map[1].weight.shape == (4, 8)


def test_rungs_that_do_not_follow_each_other_get_a_learned_map():
    back = map_down(Between("b", None, (3, 5), (4, 2)), None, None)
    assert back(torch.zeros(2, 4, 2)).shape == (2, 3, 5)


def test_fit_cuts_and_pads_the_end():
    h = torch.arange(6.0).view(1, 1, 2, 3)
    assert Fit((1, 4))(h).tolist() == [[[[0, 1, 2, 0]]]]
    assert Fit((3, 1))(h).tolist() == [[[[0], [3], [0]]]]


@pytest.mark.parametrize("size", [1, 2, 5, 15, 33, 34])
def test_upsampling_reverses_a_pool_that_rounds_up(size):
    x = torch.arange(float(size)).view(1, 1, size)
    pooled = functional.max_pool1d(x, 2, ceil_mode=True)
    assert Resize((size,))(pooled)[0, 0].tolist() == [pooled[0, 0, i // 2] for i in range(size)]


def test_a_transposed_convolution_meets_any_size():
    for size in (7, 8):
        back = TransposedConvolution((2, size), (3, 3), (3,), (2,), (0,), (1,), 1)
        nn.init.ones_(back.weight)
        assert back(torch.ones(1, 3, 3)).shape == (1, 2, size)

import pytest
import torch

from laddernet.devices import device_of


def test_a_device_is_named_or_the_gpu_where_there_is_one():
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("toaster", ValueError, "device 'toaster' cannot be used here"),
        ("cuda:99", ValueError, "device 'cuda:99' cannot be used here"),
        (0, TypeError, "device must be a device's name, such as 'auto', 'cpu' or 'cuda:0', got 0"),
    ],
)
def test_what_cannot_be_used_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        device_of(name)

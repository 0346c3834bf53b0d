"""Where to compute."""

import torch

from laddernet.arguments import check_kind


def device_of(name: str) -> torch.device:
    """Return the device that an estimator's `device` names.

    Raises
    ------
    ValueError
        If it cannot be used here.
    """
    check_kind("device", name, (str, torch.device), "a device's name, such as 'auto', 'cpu' or 'cuda:0'")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that no process has taken."""
    return torch.cuda.mem_get_info(device)[0]

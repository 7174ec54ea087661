"""Random float64 tensors for comparisons with numerical gradients."""

import torch


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return a random tensor that requires a gradient."""
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_(True)


def fixed(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return a random tensor without a gradient."""
    return leaf(*shape, seed=seed).detach()

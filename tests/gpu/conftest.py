"""What `make test-gpu` runs: on a machine with a CUDA GPU, with what requirements.lock installs and no more."""

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and PyTorch sees none")

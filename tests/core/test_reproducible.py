"""One thread and float64 inside, everything as before outside."""

import numpy as np
import torch
from threadpoolctl import threadpool_info

from paperlab.reproducible import reproducible


def test_threads_and_dtype_are_restored():
    before, dtype = torch.get_num_threads(), torch.get_default_dtype()
    np.ones((2, 2)) @ np.ones((2, 2))
    with reproducible():
        assert torch.get_num_threads() == 1
        assert torch.zeros(1).dtype == torch.float64
        assert all(pool["num_threads"] == 1 for pool in threadpool_info() if pool["user_api"] == "blas")
    assert torch.get_num_threads() == before
    assert torch.get_default_dtype() == dtype


def test_as_a_decorator():
    @reproducible()
    def dtype():
        return torch.get_default_dtype()

    assert dtype() == dtype() == torch.float64
    assert torch.get_default_dtype() == torch.float32

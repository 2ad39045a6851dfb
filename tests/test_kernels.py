"""The linears of the CPU: any number of rows in, and few sizes in what oneDNN is given."""

import pytest
import torch

from bge_integrations.models import kernels


@pytest.mark.parametrize("kind", [kernels.Linear, kernels.PrepackedLinear])
@pytest.mark.parametrize("rows", [1, 8, 9, 127, 129, 200])
def test_any_number_of_rows(kind, rows):
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=generator) for shape in ((48, 32), (48,), (rows, 32)))
    residual = torch.randn(rows, 48, generator=generator)
    layer, expected = kind(weight, bias), x @ weight.T + bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.gelu(x), torch.nn.functional.gelu(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.add(x, residual), expected + residual, rtol=1e-4, atol=1e-4)


def test_onednn_meets_few_sizes(monkeypatch):
    """It keeps memory for each of them."""
    sizes = set()
    gelu = kernels.F.gelu
    monkeypatch.setattr(kernels.F, "gelu", lambda x: sizes.add(len(x)) or gelu(x))
    layer = kernels.Linear(torch.ones(2, 2), torch.ones(2))
    for rows in range(1, 2049):
        assert layer.gelu(torch.ones(rows, 2)).shape == (rows, 2)
    assert len(sizes) <= 48

"""Write ``metrics.safetensors``: a small dictionary, held-out codes, and what SAELens says of them.

Run it where ``sae-lens==6.54.12`` and ``torch==2.13.0`` are installed: ``python tests/data/synthsaebench/make.py``.
"""

from pathlib import Path

import torch
from sae_lens.evals import ExplainedVarianceCalculator
from sae_lens.synthetic.evals import (
    ClassificationMetricsCalculator,
    feature_uniqueness,
    mean_correlation_coefficient,
)
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(0)
features = torch.nn.functional.normalize(torch.randn(12, 6, generator=generator))
atoms = torch.cat(
    [features[:5] + 0.2 * torch.randn(5, 6, generator=generator), -features[5:7], features[:1], features[9:10]]
)
coefficients = torch.rand(60, 12, generator=generator) * (torch.rand(60, 12, generator=generator) < 0.2)
rows = coefficients @ features + 3.0
codes = torch.relu((rows - 3.0) @ atoms.T - 0.3)
codes[:, 8] = 0  # a dead latent
reconstruction = codes @ atoms + 3.0
classification, variance = ClassificationMetricsCalculator(atoms, features), ExplainedVarianceCalculator()
for part in (slice(0, 25), slice(25, 60)):
    classification.add_batch(codes[part], coefficients[part])
    variance.add_batch(reconstruction[part], rows[part])
found = classification.compute()
numbers = {
    "mcc": mean_correlation_coefficient(atoms, features), "uniqueness": feature_uniqueness(atoms, features),
    "f1": found.f1_score, "precision": found.precision, "recall": found.recall, "accuracy": found.accuracy,
    "explained_variance": variance.compute(),
}  # fmt: skip
tensors = {"features": features, "atoms": atoms, "coefficients": coefficients, "rows": rows, "codes": codes}
save_file(
    {**tensors, **{name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}},
    Path(__file__).with_name("metrics.safetensors"),
)

"""Measures prediction, and that of the same network in PyTorch.

python benchmarks/inference.py [--quick] [--rounds=7] [--only=TEXT] [--out=FILE.json]

A run maps images to logits, with running statistics in the norms. PyTorch runs in its inference
mode, channels-last, with as many threads; the rest is as in `train_step.py`. The logits of both
are compared first, for equal weights.
"""

import checks
import interleave
from wbc_jax.cpu import huge_pages

if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    interleave.main(__doc__.splitlines()[0], "predict", checks.prediction_difference)

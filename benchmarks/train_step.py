"""Time of a training step, beside the same network in PyTorch.

python benchmarks/train_step.py [--quick] [--rounds=7] [--only=TEXT] [--out=FILE.json]

A step is forward, backward, gradient clipping, AdamW and the running statistics of batch
normalisation; ours also counts its confusion matrix, as in training. No augmentation and no input
pipeline: the batch lies ready. PyTorch is channels-last, with the fused AdamW and as many threads;
on a GPU both are in bfloat16, and PyTorch is also compiled: the faster of the two counts. The
gradients of both are compared first, for equal weights. Both sides get memory in large pages where
the system has them (`wbc_jax.cpu.huge_pages`), as training does.

They take turns, each in its own process. `ratio` is ours / PyTorch by the clock, `CPU time` the
same by the time of all processors together, which other programs disturb less: medians over the
rounds.
"""

import checks
import sidebyside

from wbc_jax.cpu import huge_pages

if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sidebyside.main(__doc__.splitlines()[0], "train", checks.difference)

"""Measures a training step, and that of the same network in PyTorch.

python benchmarks/train_step.py [--quick] [--rounds=7] [--only=TEXT] [--out=FILE.json]

A step is forward, backward, gradient clipping, AdamW and the running statistics of batch
normalization; ours also counts its confusion matrix, as in training. There is no augmentation and
no input pipeline: the batch is in memory (`train_loop.py` measures the whole loop). PyTorch runs
channels-last, with the fused AdamW and as many threads, as it is and with the network compiled
(`torch.compile`, which on a CPU needs a C++ compiler): the faster of the two counts. On a GPU all
run in bfloat16. The gradients of both are compared first, for equal weights. All sides get memory
in huge pages where the system has them (`wbc_jax.cpu.huge_pages`), as training does.

All sides are measured alternately, each in its own process. `ratio` is ours / the faster PyTorch by
the clock, `CPU time` the same by the time of all processors together, which other programs disturb
less. Both are medians over the rounds. Compiling is not measured; it takes a minute or more a case
on two cores, so `--only` chooses some.
"""

import checks
import interleave
from wbc_jax.cpu import huge_pages

if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    interleave.main(__doc__.splitlines()[0], "train", checks.training_difference)

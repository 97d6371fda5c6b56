"""A model and a split → metrics, and one row an image; a module for each task.

Both modules have `measure`, `measure_test`, `training_summary`, `validation`, `results`, `rows`,
`ROW_COLUMNS`, `CLASSES`, `SCORE` and `SCORE_NAME`. What `measure` returns for each image (a
confusion matrix, or probabilities) is what the others take; `measure_test` adds what takes too long
to be looked at during training.
"""

import types

from wbc_jax.evaluate import cell_types, masks

TASKS: dict[str, types.ModuleType] = {"segmentation": masks, "classification": cell_types}
"""By `config.task`."""

"""The identity of a record: enough to tell whether another record shows the same cell."""

import dataclasses

FAMILIES = {"raabin_gt": "raabin", "raabin_wbc": "raabin"}
"""Data sets that publish the same frames under the same names: their groups are compared."""

SAME_FRAMES = {
    ("raabin", "20190531_105753"): "20190527_113105",
    ("raabin", "95-5-5-1_151"): "95-5-4-1_124",
    ("raabin", "95-5-5-1_164"): "95-5-4-1_106",
}
"""{(collection, frame): another frame with the same cell}. These were photographed twice and look
so different that their hashes are not near (`duplicates.NEAR_BITS`); found by eye among the pairs
that are a little farther apart."""


@dataclasses.dataclass(frozen=True, slots=True)
class RecordKey:
    """Identifies a record, in its data set and among near duplicates.

    Attributes:
        dataset: as in the config, such as `segmentation_wbc/jtsc`.
        id: unique in the data set.
        group: records of one group never stand in two splits.
        hash: 32 bytes of the perceptual hash (`duplicates.perceptual_hash`); None: unknown.
        cell_hash: the same of the cell alone (`duplicates.cell_hash`).
    """

    dataset: str
    id: str
    group: str
    hash: bytes | None = None
    cell_hash: bytes | None = None

    @property
    def split_group(self) -> tuple[str, str]:
        """(collection, group): no two splits may share it.

        The collection is the data set's name without its config: groups hold across the configs of
        one data set (an original and its copies), but equal names in different data sets mean
        nothing. Packagings of one collection whose frames have the same names count as one
        (`FAMILIES`), and so do frames that are known to show one cell (`SAME_FRAMES`).
        """
        base = self.dataset.partition("/")[0]
        collection = FAMILIES.get(base, base)
        return collection, SAME_FRAMES.get((collection, self.group), self.group)

"""ALL-IDB2: lymphoblasts and normal cells, with masks by Banik et al. 2020."""

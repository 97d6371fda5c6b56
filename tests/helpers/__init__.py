"""Parts that several test files share: tiny runs, drawn fields, oracles and stand-ins."""

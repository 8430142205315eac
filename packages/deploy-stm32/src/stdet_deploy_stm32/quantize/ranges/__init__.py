"""Which range of real values each activation's integers span."""

"""What networks share: weight averaging, loading, precision, ranks."""

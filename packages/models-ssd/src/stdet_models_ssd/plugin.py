"""What this package adds to stdet: the SSD variants, as they are ported."""

STDET_API_VERSION = 1

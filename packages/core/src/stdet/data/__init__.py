"""Pixels: reading, preprocessing, batching. No data-set format lives here."""

"""What a run leaves: its folder, the record of its stages, and the summary for people."""

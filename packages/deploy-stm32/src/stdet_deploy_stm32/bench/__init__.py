"""What a model costs: measured on this computer, or counted from the graph."""

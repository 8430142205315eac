"""A first config for a folder of photographs: network, size and training, each with its reason."""

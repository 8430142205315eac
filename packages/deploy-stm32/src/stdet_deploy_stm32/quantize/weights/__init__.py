"""What is done to weights and biases so that rounding them loses less."""

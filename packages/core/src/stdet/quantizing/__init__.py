"""What core knows of quantization, whatever the target: the images to calibrate on, their doctor, the judge of the result."""

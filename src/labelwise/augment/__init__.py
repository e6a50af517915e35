"""Random views of a batch, made on the device for the whole batch at once."""

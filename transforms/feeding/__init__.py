"""Feeders: processes that turn encoded images into batches of pixels, for the process that owns the model."""

"""The loaded model on a device: batches that fit its memory, and a GPU for each process."""

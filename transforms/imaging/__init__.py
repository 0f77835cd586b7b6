"""Image files to model input: formats, decoders, resizing. The way in is `preprocess.decode`."""

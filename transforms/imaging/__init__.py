"""The parts of `transforms.imaging.preprocess`: what a file is, what it holds, its pixels, and their resizing."""

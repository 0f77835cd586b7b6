"""The parts of `transforms.images`: what a file is, what it holds, its pixels, and their resizing."""

"""The kinds of stores behind transforms.storage: each a class with the same methods, without any patience."""

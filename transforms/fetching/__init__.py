"""How the bytes of one image come from a URI; `transforms.fetch` is the door."""

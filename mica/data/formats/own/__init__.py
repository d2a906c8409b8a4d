"""One's own recordings: a folder of NumPy, CSV or BVH files and a table of them."""

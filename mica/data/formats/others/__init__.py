"""Files that other projects made of the recordings and that people have already."""

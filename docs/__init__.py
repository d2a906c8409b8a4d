"""Pages to read, and what makes them."""

"""Moving bodies: a scene to stand in, as a GIF or as a page that plays."""

"""A pretrained model at work: features of clips to take elsewhere, and what a clip shows."""

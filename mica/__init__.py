"""MICA: language-skeleton contrastive pretraining for action recognition."""

"""The training of the bundled pocket models; run by `scripts/train_pocket.py`."""

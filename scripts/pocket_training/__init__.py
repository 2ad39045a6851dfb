"""How the bundled pocket models are trained; run by `scripts/train_pocket.py`."""

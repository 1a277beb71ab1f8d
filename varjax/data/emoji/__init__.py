"""The built-in emoji images: 9 categories at 32 x 32, no download needed.

`emoji32.npz` is written by `vendor.py`, `emoji_dataset_builder.py` turns it
into a tfds dataset, and `prepare.py` does so on first use.
"""

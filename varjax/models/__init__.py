"""The transformer, its heads and its kernels."""

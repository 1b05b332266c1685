"""Softmax over fewer keys: which ones is fixed by position or chosen by content."""

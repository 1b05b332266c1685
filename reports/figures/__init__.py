"""One figure a file: each has a `draw` that takes a matplotlib figure and a frame, and only draws.

A figure narrower than five inches stacks its panels and moves labels into a legend below.
"""

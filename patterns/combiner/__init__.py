"""Combiner: full attention in every head at sparse cost (Ren et al., NeurIPS 2021, 2107.05768).

The keys that a query sees are partitioned into direct keys and regions. A region stands in the
softmax as one key; inside it the weights are the same for every query that uses it.
"""

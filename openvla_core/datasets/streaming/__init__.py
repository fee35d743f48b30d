"""Samples for training: a shuffled order, weighted over many data sets, from files, shards or both."""

"""The small world: captioned clips of one moving shape, with everything about them known.

`vocabulary` says what there is and how it is named, `scene` takes a clip's truth from a seed, `draw` makes pixels of
it. NumPy only: the geometry of `tools/metrics` and the dataset share these definitions, without a network in between.
"""

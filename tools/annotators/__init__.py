"""Maps read off videos, which steer VideoComposer; `python -m tools.annotators --help`.

One class per file, registered under the name that the command line uses; see `base.Annotator` for what they share.
"""

"""Single blocks and functions whose counterpart here takes the same numbers, by the name that golden cases use."""

# Constructor of the block from the case's `config`; blocks that are cut differently here are absent.
BLOCKS = {}

FUNCTIONS = {}

"""The golden comparison: the same commands on two commits, and what differs between them."""

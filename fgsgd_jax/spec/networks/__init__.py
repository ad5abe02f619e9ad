"""Networks: what each weight of a network is for, by paths and shapes, and what suits it."""
